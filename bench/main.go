// Bench measures kernelgw against a stock jupyter_server, its kernels against
// kernel_gateway and a bare relay, and its files against s3contents, too: the same
// machine, the same kernel, the same client, in turns.
// It starts all of them itself and writes a page of Markdown. It fails when
// something does not work, never because it was slow.
//
//	go run ./bench -o docs/performance.md
//	go run ./bench -quick -parts kernels,streams -servers stock,process,relay
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// plan is how much is measured.
type plan struct {
	rounds                  int
	executes, plainExecutes int
	// messages of one cell; a slow server gets fewer, for its figure is as
	// good with them.
	messages       map[string]int // by server kind
	pythonMessages int
	idleSockets    int
	settle         time.Duration // before memory is read
	files          filePlan
	visits         int // of JupyterLab's page

	volume    int            // bytes of the large messages, for each size
	fanOut    map[string]int // messages to a hundred clients, by server kind
	stalled   int            // bytes past a stalled reader
	returning int            // messages while a client is away for a while
}

func plans(quick bool) plan {
	if quick {
		return plan{
			rounds: 1, executes: 100, plainExecutes: 30, pythonMessages: 2000, idleSockets: 500,
			settle: time.Second, messages: map[string]int{stock: 3000, kernelgw: 100_000},
			files: filePlan{lists: 10, looks: 100, saves: 5, renames: 1}, visits: 1,
			volume: 256 << 20, fanOut: map[string]int{stock: 200, kernelgw: 2000}, stalled: 1 << 30, returning: 3000,
		}
	}
	return plan{
		rounds: 3, executes: 300, plainExecutes: 100, pythonMessages: 10_000, idleSockets: 500,
		messages: map[string]int{stock: 10_000, kernelgw: 300_000},
		files:    filePlan{lists: 30, looks: 300, saves: 20, renames: 3}, visits: 5,
		volume: 1 << 30, fanOut: map[string]int{stock: 500, kernelgw: 10_000}, stalled: 1 << 30, returning: 3000,
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	out := flags.String("o", "", "`file` to write the page to; standard output when empty")
	quick := flags.Bool("quick", false, "one short round, a few minutes")
	rounds := flags.Int("rounds", 0, "rounds; 0 means 3, or 1 with -quick")
	parts := flags.String("parts", "kernels,streams,files,lab", "what to measure, `names` separated by commas")
	servers := flags.String("servers", "stock,process,relay,kernel_gateway,gvisor,s3contents,process-s3", "of which servers, `names` separated by commas")
	bin := flags.String("bin", "", "`directory` of kernelgw and kernelagent; bin of the checkout when empty")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	p := plans(*quick)
	if *rounds > 0 {
		p.rounds = *rounds
	}
	subjects, err := chosen(*parts, *servers)
	if err != nil {
		return err
	}
	host, err := newHost(ctx, *bin)
	if err != nil {
		return err
	}
	defer host.close()

	about := describe(ctx, host, subjects)
	figures := newFigures()
	for round := range p.rounds {
		for _, s := range subjects {
			fmt.Fprintf(stderr, "round %d of %d: %s\n", round+1, p.rounds, s)
			if err := s.measure(ctx, host, p, figures); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
	}
	command := "go run ./bench " + strings.Join(args, " ")
	page := figures.page(append(about, "load average of the last minute "+load()+" at the end"), strings.TrimSpace(command), p)
	if *out == "" {
		_, err := io.WriteString(stdout, page)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(*out, []byte(page), 0o644)
}
