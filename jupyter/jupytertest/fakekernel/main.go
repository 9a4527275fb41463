// Fakekernel is a kernel process for tests: jupytertest.Kernel behind the
// command line of a kernelspec, {"argv": ["fakekernel", "-f", "{connection_file}"]}.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"kernelgw/jupyter"
	"kernelgw/jupyter/jupytertest"
)

func main() {
	code, err := run(context.Background(), os.Args[1:], os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fakekernel:", err)
	}
	os.Exit(code)
}

// run serves until the kernel is told to end: SIGINT interrupts the running
// cell, SIGTERM ends the process.
func run(ctx context.Context, args []string, stderr io.Writer) (int, error) {
	flags := flag.NewFlagSet("fakekernel", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("f", "", "connection file")
	if err := flags.Parse(args); err != nil {
		return 2, nil // flag has said it
	}
	b, err := os.ReadFile(*file)
	if err != nil {
		return 1, fmt.Errorf("cannot read the connection file: %w", err)
	}
	var info jupyter.ConnectionInfo
	if err := json.Unmarshal(b, &info); err != nil {
		return 1, fmt.Errorf("cannot read the connection file %s: %w", *file, err)
	}
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, syscall.SIGINT)
	defer signal.Stop(interrupts)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()

	k, err := jupytertest.New(&info)
	if err != nil {
		return 1, fmt.Errorf("cannot bind: %w", err)
	}
	if file := os.Getenv(jupytertest.TranscriptEnv); file != "" {
		transcript, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			k.Close()
			return 1, fmt.Errorf("cannot write the transcript: %w", err)
		}
		defer transcript.Close()
		k.Transcribe(transcript)
	}
	done := make(chan struct{})
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		for {
			select {
			case <-interrupts:
				k.Interrupt()
			case <-done:
				return
			}
		}
	}()
	code := k.Run(ctx)
	close(done)
	<-joined
	return code, nil
}
