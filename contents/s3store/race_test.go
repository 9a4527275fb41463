//go:build race

package s3store_test

// raceDetector makes all of it many times slower.
const raceDetector = true
