package main

import (
	"fmt"
	"log/slog"
	"time"

	"kernelgw/kernelgw/outputlog"
	"kernelgw/sandboxes/agentapi"
)

// OutputConfig says how much kernels may show, and what is kept of what they print.
type OutputConfig struct {
	OutputCell      ByteSize      `help:"Bytes of streams and display data that one cell may show. What is past it is dropped, with a mark in its place. 0 means no limit." default:"64MiB"`
	OutputSecond    ByteSize      `help:"Bytes of them that a kernel may show in a second, on the average of ten. What is past it is dropped, with a mark in its place. 0 means no limit." default:"32MiB"`
	MaxOutputCell   ByteSize      `help:"Most that the members of a workspace may choose for output_cell; 0 means output_cell." default:"0"`
	MaxOutputSecond ByteSize      `help:"Most that they may choose for output_second; 0 means output_second." default:"0"`
	KeepOutput      time.Duration `help:"How long all that kernels print is kept, for GET v1/sessions/ID/logs, also what is past those limits. 0 keeps none." default:"168h"`
	MaxOutputLog    ByteSize      `help:"Bytes of it, compressed, that are kept of one workspace: over it the oldest of the session that has most goes. 0 means no limit. It does not count in quota." default:"1GiB"`
}

// leastOutputLog has room for some parts.
const leastOutputLog = 64 << 20

// validate names the first key that is wrong, and what to do about it.
func (c *OutputConfig) validate() error {
	if c.KeepOutput != 0 && c.KeepOutput < time.Minute {
		return fmt.Errorf("keep_output: %v is too short; at least 1m, or 0 to keep none", c.KeepOutput)
	}
	if c.MaxOutputLog != 0 && c.MaxOutputLog < leastOutputLog {
		return fmt.Errorf("max_output_log: too small; at least 64MiB, or 0 for no limit")
	}
	return nil
}

// caps are what agents are told.
func (c *OutputConfig) caps() agentapi.OutputCaps {
	return agentapi.OutputCaps{CellBytes: int64(c.OutputCell), SecondBytes: int64(c.OutputSecond)}
}

// openOutputLogs returns where what kernels print is kept, nil when it is not.
func openOutputLogs(c *OutputConfig, store outputlog.Store, log *slog.Logger) *outputlog.Logs {
	if c.KeepOutput == 0 {
		return nil
	}
	return outputlog.New(outputlog.Options{Store: store, Log: log, Keep: c.KeepOutput, WorkspaceBytes: int64(c.MaxOutputLog)})
}
