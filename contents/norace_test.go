//go:build !race

package contents_test

const raceDetector = false
