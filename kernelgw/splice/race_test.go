//go:build race

package splice

// raceDetector is set in a build with -race, whose shadow memory and shuffled
// pools make figures of memory meaningless.
const raceDetector = true
