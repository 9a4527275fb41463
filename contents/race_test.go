//go:build race

package contents_test

// raceDetector multiplies what memory is used.
const raceDetector = true
