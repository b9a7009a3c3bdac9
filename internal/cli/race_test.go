//go:build race

package cli

// raceDetector says that the tests run with the race detector, which takes many
// times the memory.
const raceDetector = true
