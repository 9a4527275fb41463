// Kernelagent is the first process of a sandbox: it runs one Jupyter kernel and
// serves it by the contract of package agentapi. A driver starts it; it is not
// for people. "kernelagent pause" only waits for SIGTERM: it is the first process
// of what holds a pod together.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"

	"kernelgw/sandboxes/agent"
	"kernelgw/sandboxes/agentapi"
)

func main() {
	// A message passes from goroutine to goroutine and each does little: a second
	// thread mostly wakes up and goes to sleep again. On two cores that it shares
	// with its kernel, one thread is 15 % faster a round trip, not slower a flood,
	// and cheaper (bench).
	if os.Getenv("GOMAXPROCS") == "" {
		goruntime.GOMAXPROCS(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(os.Args) == 2 && os.Args[1] == "pause" {
		<-ctx.Done()
		return
	}
	err := run(ctx, os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernelagent:", err)
		os.Exit(1)
	}
}

// run serves one kernel until it was shut down or ctx ends.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("kernelagent", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var (
		config  = flags.String("config", "", "`FILE` with the agent's configuration (JSON), read once at the start")
		listen  = flags.String("listen", "", "`ADDRESS` to serve on: unix:PATH or tcp:HOST:PORT")
		runAs   = flags.String("run-as", "", "`UID:GID` of the kernel; without it the kernel runs as the agent's user")
		home    = flags.String("home", "", "home `DIR` of the kernel (default $HOME)")
		runtime = flags.String("runtime-dir", "", "`DIR` for connection files (default the directory for temporary files)")
		trusted = flags.String("authority", "", "`FILE` with a certificate authority (PEM) that all programs here shall trust")
		level   = flags.String("log-level", "info", "debug, info, warn, error, or off for where nobody reads")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	log, err := newLog(stderr, *level)
	if err != nil {
		return err
	}
	options := agent.Options{Home: *home, RuntimeDir: *runtime, OwnsDescendants: true, Log: log}
	if options.User, err = parseUser(*runAs); err != nil {
		return err
	}
	if options.Config, err = readConfig(*config); err != nil {
		return err
	}
	if err := agent.Harden(options.User != nil); err != nil {
		return err
	}
	if *trusted != "" {
		if err := agent.Trust(*trusted, cmp.Or(*runtime, os.TempDir())); err != nil {
			return err
		}
	}
	if options.Listener, err = listenOn(*listen); err != nil {
		return err
	}
	a, err := agent.New(options)
	if err != nil {
		options.Listener.Close()
		return err
	}
	log.Info("agent started", "kernel", options.Config.KernelID, "listen", *listen)
	err = a.Run(ctx)
	log.Info("agent ended", "kernel", options.Config.KernelID)
	return err
}

func newLog(w io.Writer, level string) (*slog.Logger, error) {
	if level == "off" {
		return slog.New(slog.DiscardHandler), nil
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q is not debug, info, warn, error or off", level)
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})), nil
}

// parseUser reads UID:GID. Decimal digits only: strconv would take signs, and
// "00" is root as much as "0" is.
func parseUser(text string) (*agent.User, error) {
	if text == "" {
		return nil, nil
	}
	uid, gid, ok := strings.Cut(text, ":")
	u, uidErr := strconv.ParseUint(uid, 10, 32)
	g, gidErr := strconv.ParseUint(gid, 10, 32)
	if !ok || uidErr != nil || gidErr != nil {
		return nil, fmt.Errorf("--run-as %q is not UID:GID", text)
	}
	const nobody = 1<<32 - 1 // to the system: no change
	if u == 0 || g == 0 || u == nobody || g == nobody {
		return nil, fmt.Errorf("--run-as %q: the kernel cannot run as root, nor as %d", text, nobody)
	}
	return &agent.User{UID: uint32(u), GID: uint32(g)}, nil
}

func readConfig(name string) (agentapi.Config, error) {
	var c agentapi.Config
	if name == "" {
		return c, errors.New("--config is missing")
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return c, fmt.Errorf("cannot read the configuration: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		// The error may quote the file, and the file holds the token.
		return c, fmt.Errorf("cannot read the configuration: %s is not JSON of agentapi.Config", name)
	}
	return c, nil
}

func listenOn(address string) (net.Listener, error) {
	network, rest, _ := strings.Cut(address, ":")
	switch network {
	case "unix":
		return agentapi.ListenUnix(rest)
	case "tcp":
		return agentapi.ListenTCP(rest)
	}
	return nil, fmt.Errorf("--listen %q is neither unix:PATH nor tcp:HOST:PORT", address)
}
