package main

import (
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"
)

// A WebSocket takes two descriptors: the client's, and the agent's. A kernel takes
// the connections on which its agent is followed and its files are kept, and what
// requests open for a moment. Some are the gateway's own.
const (
	descriptorsOfASocket = 2
	descriptorsOfAKernel = 4
	ownDescriptors       = 200
)

// warnOfFewDescriptors tells the operator when one user can use up the file
// descriptors, without which nobody connects any more. Go has raised the soft limit
// to the hard one by now, which only the operator can.
func warnOfFewDescriptors(sockets int, log *slog.Logger) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		log.Warn("cannot tell how many file descriptors there may be", "error", err)
		return
	}
	if problem := fewDescriptors(files.Cur, sockets); problem != "" {
		log.Warn(problem)
	}
}

// fewDescriptors says what is wrong with a limit, "" for nothing.
func fewDescriptors(limit uint64, sockets int) string {
	need := ownDescriptors + uint64(sockets)*descriptorsOfASocket
	if limit >= need {
		return ""
	}
	return fmt.Sprintf("one user can use up the %d file descriptors that this process may have: max_sockets is %d, which takes %d, "+
		"and each kernel takes %d more; raise the hard limit (LimitNOFILE= of the systemd unit, ulimit -Hn of the shell), or lower max_sockets",
		limit, sockets, need, descriptorsOfAKernel)
}
