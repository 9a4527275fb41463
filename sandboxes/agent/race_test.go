//go:build race

package agent

// raceDetector is set in a build with -race, whose shadow memory and shuffled
// pools make figures of memory meaningless.
const raceDetector = true
