// Command agent stands in for cmd/kernelagent in the tests of the driver. It
// takes the same flags and serves, on the same socket, one request: run some
// code as the user that kernels run as. That code is this binary again.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "attack" {
		fmt.Print(attack(os.Args[2], os.Args[3:]))
		return
	}
	var runAs, home, listen, config string
	flag.StringVar(&runAs, "run-as", "", "")
	flag.StringVar(&home, "home", "", "")
	flag.StringVar(&listen, "listen", "", "")
	flag.StringVar(&config, "config", "", "")
	flag.String("runtime-dir", "", "")
	flag.Parse()
	if err := serve(runAs, home, listen, config); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

// program is this binary where the kernel's user can run it, too.
const program = "/tmp/agent"

func copySelf() error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(program, self, 0o755)
}

func serve(runAs, home, listen, config string) error {
	var uid, gid uint32
	if _, err := fmt.Sscanf(runAs, "%d:%d", &uid, &gid); err != nil {
		return fmt.Errorf("bad --run-as %q: %w", runAs, err)
	}
	if _, err := os.ReadFile(config); err != nil {
		return err
	}
	if err := copySelf(); err != nil {
		return err
	}
	network, address, _ := strings.Cut(listen, ":")
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /attack", func(w http.ResponseWriter, r *http.Request) {
		var args []string
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		cmd := exec.Command(program, append([]string{"attack"}, args...)...)
		cmd.Dir = home
		cmd.Env = []string{"HOME=" + home}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			out = fmt.Appendf(out, "\nended: %v", err)
		}
		_, _ = w.Write(out)
	})
	// An agent that was taken over: root inside.
	mux.HandleFunc("POST /fill-control", func(http.ResponseWriter, *http.Request) {
		fmt.Fprintln(os.Stderr, fill(filepath.Dir(config)))
	})
	mux.HandleFunc("POST /exit", func(http.ResponseWriter, *http.Request) { os.Exit(7) })
	mux.HandleFunc("POST /print", func(w http.ResponseWriter, r *http.Request) {
		line := strings.Repeat("x", 1023) + "\n"
		for range 4 << 10 {
			if _, err := os.Stderr.WriteString(line); err != nil {
				return
			}
		}
		fmt.Fprintln(os.Stderr, "the last line")
	})
	err = http.Serve(l, mux)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
