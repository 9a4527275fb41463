package sandboxtest

import (
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// AgentMain is the double as the main of a process of its own, for drivers
// that start one: it serves on the Unix socket until it is shut down or gets
// SIGTERM, and returns the exit code. It runs no kernel.
func AgentMain(configFile, socket string) int {
	config, err := os.ReadFile(configFile)
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent double:", err)
		return 1
	}
	a := newAgent(config, socket)
	if err := a.boot(); err != nil {
		fmt.Fprintln(os.Stderr, "agent double:", err)
		return 1
	}
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, unix.SIGTERM)
	defer signal.Stop(terms)
	select {
	case <-terms:
		a.Exit(0, "")
	case <-a.ended:
	}
	a.join()
	if a.exit.Reason != "" {
		fmt.Fprintln(os.Stderr, "agent double:", a.exit.Reason)
	}
	return a.exit.Code
}
