package servers

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"kernelgw/conformance/probe"
)

// User is a user of a server with a user list.
type User struct {
	Name       string
	Token      string
	Workspaces []string
}

// Options of a kernelgw. The zero value is the single user's server.
type Options struct {
	Users  []User   // a server with these users instead of a single one
	Driver string   // "" is Driver()
	Args   []string // more arguments of serve
	Env    []string // more environment
}

// Driver is the driver under test: process, unless
// KERNELGW_CONFORMANCE_DRIVER names another.
func Driver() string {
	if d := os.Getenv("KERNELGW_CONFORMANCE_DRIVER"); d != "" {
		return d
	}
	return "process"
}

// Kernelgw starts bin/kernelgw on a port of its own choice and waits until it
// is ready. KERNELGW_CONFORMANCE_ARGS adds arguments, separated by spaces, as
// a driver may need to find its images.
func Kernelgw(ctx context.Context, o Options) (*Process, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(root, "bin", "kernelgw")
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("there is no bin/kernelgw: run make build")
	}
	venv, err := Venv("stock")
	if err != nil {
		return nil, err
	}
	dir, err := newDir()
	if err != nil {
		return nil, err
	}
	p := &Process{Dir: dir, env: environ(dir, venv, o.Env...)}
	p.argv = append([]string{binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data"), "--driver", cmp.Or(o.Driver, Driver())}, o.Args...)
	p.argv = append(p.argv, networkArgs()...)
	p.argv = append(p.argv, strings.Fields(os.Getenv("KERNELGW_CONFORMANCE_ARGS"))...)
	if len(o.Users) == 0 {
		p.Token = probe.ID()
		p.argv = append(p.argv, "--token", p.Token)
	} else {
		config := filepath.Join(dir, "kernelgw.yaml")
		if err := os.WriteFile(config, usersYAML(o.Users), 0o600); err != nil {
			return nil, err
		}
		p.argv = append(p.argv, "--config", config)
		p.Token = o.Users[0].Token
		for _, u := range o.Users[1:] {
			p.extra = append(p.extra, u.Token)
		}
	}
	return p, p.start(ctx)
}

// gateways counts those that were started, each of which has a network of its own.
var gateways atomic.Uint32

// networkArgs gives a gateway a name and addresses for its sandboxes' network
// that no other of this process has. scripts/own-network.sh says whether the
// process has a network namespace of its own, in which that can be.
func networkArgs() []string {
	if os.Getenv("KERNELGW_TEST_OWN_NETWORK") == "" {
		return []string{"--network", "none"}
	}
	n := gateways.Add(1)
	subnet := fmt.Sprintf("10.%d.%d.0/20", 64+n/16%128, n%16*16)
	// On, not auto: a network that cannot be made must not go unnoticed.
	return []string{"--network", "on", "--network-name", fmt.Sprintf("k%d", n), "--network-subnet", subnet}
}

func usersYAML(users []User) []byte {
	var b strings.Builder
	b.WriteString("users:\n")
	for _, u := range users {
		sum := sha256.Sum256([]byte(u.Token))
		fmt.Fprintf(&b, "  - name: %s\n    token_sha256: [%s]\n    workspaces: [%s]\n",
			u.Name, hex.EncodeToString(sum[:]), strings.Join(u.Workspaces, ", "))
	}
	return []byte(b.String())
}

// Restart starts a kernelgw that was killed again, on the same port and data.
func (p *Process) Restart(ctx context.Context) error { return p.start(ctx) }

// start spawns the server and learns its URL from the one line that it prints.
func (p *Process) start(ctx context.Context) error {
	lines, err := p.spawn()
	if err != nil {
		return err
	}
	fail := func(err error) error {
		_ = p.Kill()
		return fmt.Errorf("cannot start kernelgw: %w\n%s", err, p.Log())
	}
	select {
	case line, ok := <-lines:
		if !ok {
			return fail(fmt.Errorf("it ended before it printed its URL"))
		}
		at := strings.Index(line, "http://")
		if at < 0 {
			return fail(fmt.Errorf("its first line has no URL: %q", line))
		}
		u, err := url.Parse(strings.Fields(line[at:])[0])
		if err != nil {
			return fail(err)
		}
		u.RawQuery, u.Fragment = "", ""
		p.Base = strings.TrimSuffix(u.String(), "/") + "/"
		for i, arg := range p.argv {
			if arg == "--listen" {
				p.argv[i+1] = u.Host
			}
		}
	case <-time.After(time.Minute):
		return fail(fmt.Errorf("it printed no URL within a minute"))
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	if err := p.ready(ctx, "readyz", time.Minute); err != nil {
		return fail(err)
	}
	return nil
}
