package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kernelgw/conformance/probe"
)

// ErrNoNginx says that scripts/setup-nginx.sh could not get nginx, and said so.
var ErrNoNginx = errors.New("NOT CHECKED: there is no nginx: run scripts/setup-nginx.sh")

// nginxAround is what Debian's nginx.conf is around a site's configuration, where
// it matters, as one process group that an ordinary user may run.
const nginxAround = `daemon off;
%s
pid %[2]s/nginx.pid;
error_log stderr warn;
worker_processes 2;
events {}
http {
    sendfile on;
    tcp_nopush on;
    gzip on;
    client_body_temp_path %[2]s/body;
    proxy_temp_path %[2]s/proxy;
    fastcgi_temp_path %[2]s/fastcgi;
    uwsgi_temp_path %[2]s/uwsgi;
    scgi_temp_path %[2]s/scgi;
    include %[2]s/kernelgw.conf;
}
`

// nginx starts nginx with the configuration of deploy/nginx before a server, and
// waits until that answers through it. main is more of nginx.conf.
func nginx(ctx context.Context, upstream *probe.Server, main string) (*Process, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	program := filepath.Join(root, ".cache", "nginx", "bin", "nginx")
	if _, err := os.Stat(program); err != nil {
		return nil, ErrNoNginx
	}
	site, err := os.ReadFile(filepath.Join(root, "deploy", "nginx", "kernelgw.conf"))
	if err != nil {
		return nil, err
	}
	dir, err := newDir()
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	at := "127.0.0.1:" + strconv.Itoa(port)
	if os.Getuid() == 0 {
		main = "user root; " + main // the directory is this user's alone
	}
	here := strings.NewReplacer("listen 80;", "listen "+at+";", "http://127.0.0.1:8888;", strings.TrimSuffix(upstream.Base, "/")+";")
	config := filepath.Join(dir, "nginx.conf")
	if err := errors.Join(
		os.WriteFile(config, fmt.Appendf(nil, nginxAround, main, dir), 0o600),
		os.WriteFile(filepath.Join(dir, "kernelgw.conf"), []byte(here.Replace(string(site))), 0o600),
	); err != nil {
		return nil, err
	}
	p := &Process{
		Server: probe.Server{Base: "http://" + at + "/", Token: upstream.Token}, Dir: dir,
		argv: []string{program, "-p", dir, "-e", "stderr", "-c", config}, env: os.Environ(),
	}
	return p, p.startNginx(ctx)
}

func (p *Process) startNginx(ctx context.Context) error {
	if _, err := p.spawn(); err != nil {
		return err
	}
	if err := p.ready(ctx, "readyz", time.Minute); err != nil {
		_ = p.killGroup()
		return fmt.Errorf("cannot start nginx: %w\n%s", err, p.Log())
	}
	return nil
}

// killGroup ends a server and its children as kill -9 does.
func (p *Process) killGroup() error {
	if err := syscall.Kill(-p.PID(), syscall.SIGKILL); err != nil {
		return err
	}
	<-p.exit
	p.exit <- nil // a later wait returns at once
	return nil
}

// children returns the processes that a server has started itself.
func (p *Process) children() ([]string, error) {
	pid := strconv.Itoa(p.PID())
	list, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	return strings.Fields(string(list)), err
}

// reload makes nginx read its configuration again, and waits until workers of the
// new one are there; or, if ended, until those of the old one are gone, which
// they are when they have no connection or have closed it.
func (p *Process) reload(ctx context.Context, ended bool) error {
	before, err := p.children()
	if err != nil {
		return err
	}
	if err := p.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probe.Patience)
	defer cancel()
	for {
		now, err := p.children()
		if err != nil {
			return err
		}
		old := func(pid string) bool { return slices.Contains(before, pid) }
		if !slices.ContainsFunc(now, old) || !ended && slices.ContainsFunc(now, func(pid string) bool { return !old(pid) }) {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("nginx has not reloaded: it has the workers %v, and had %v: %w", now, before, err)
		}
	}
}
