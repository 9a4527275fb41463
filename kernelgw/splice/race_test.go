//go:build race

package splice

func init() { raceDetector = true }
