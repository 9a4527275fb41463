package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"kernelgw/auth/token"
	"kernelgw/contents"
	"kernelgw/contents/contentsync"
	"kernelgw/contents/s3store"
	"kernelgw/kernelgw"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/outputlog"
	"kernelgw/kernelgw/registry/file"
	"kernelgw/kernelgw/secrets"
	"kernelgw/kernelgw/telemetry"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/process"
)

// ServeCmd runs the gateway.
type ServeCmd struct {
	Config

	stopKernels atomic.Bool // when the gateway ends
}

// Run serves until the first SIGINT or SIGTERM, then drains. SIGHUP makes it
// read users and image policy again.
func (c *ServeCmd) Run(env *environment) error {
	ctx, stop := context.WithCancel(env.ctx)
	defer stop()
	if err := c.complete(env); err != nil {
		return err
	}
	level := new(slog.Level)
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return fmt.Errorf("log_level: %w", err)
	}
	log, err := telemetry.NewLogger(env.stderr, *level, c.LogFormat)
	if err != nil {
		return err
	}
	if err := makeDataDir(c.DataDir); err != nil {
		return err
	}
	if err := c.keepToken(); err != nil {
		return err
	}
	metrics := telemetry.NewMetrics()

	store, err := file.Open(filepath.Join(c.DataDir, "registry.db"))
	if err != nil {
		return err
	}
	defer store.Close()
	files, err := openFiles(ctx, &c.Config, log)
	if err != nil {
		return err
	}
	defer files.Close()
	events := new(kernelgw.Events)
	handlers := contents.New(contents.Options{
		Store: files, Documents: files, Log: log, SpoolDir: filepath.Join(c.DataDir, "spool"), MaxFileBytes: int64(c.MaxFile),
		Observe: events.Contents,
	})
	defer handlers.Close()
	pages, missing, err := openFrontend(&c.FrontendConfig, files.Store, log)
	if err != nil {
		return err
	}
	if pages != nil {
		defer pages.Close()
	}
	identities, err := secrets.OpenIdentities(filepath.Join(c.DataDir, secretKeys))
	if err != nil {
		return err
	}
	kept := secrets.New(secrets.Options{Store: store, Keeper: identities, Log: log})
	if identities.Rotating() {
		n, err := kept.Reseal(ctx)
		if err != nil {
			return err
		}
		log.Info("secrets are encrypted with the last key", "secrets", n)
	}
	network, err := openNetwork(&c.Config, kept, log)
	if err != nil {
		return err
	}
	defer network.close()
	images, err := imageStore(&c.Config)
	if err != nil {
		return err
	}
	driver, err := openDriver(ctx, &c.Config, images, network.Network, log)
	if err != nil {
		return err
	}
	defer driver.Close()
	if err := endNetwork(ctx, &c.Config, driver, log); err != nil {
		return err
	}

	resources := sandboxes.Resources{
		CPUs: c.CPUs, MemoryBytes: int64(c.Memory), Processes: c.Processes, DiskBytes: int64(c.Disk),
		ShmBytes: int64(c.Shm), OpenFiles: c.OpenFiles,
	}
	if driver.Name() == process.Name {
		resources, c.Image = sandboxes.Resources{}, ""
	}
	chosen, err := openPolicies(&c.Config, store, resources)
	if err != nil {
		return err
	}
	options := kernels.Options{
		Driver: driver, Store: store, Log: log, Metrics: metrics, Image: c.Image, Resources: resources,
		Policy: inForce(chosen), Environment: kept.Environment,
		DefaultKernel: c.DefaultKernel, AllowedEnv: c.AllowedEnv, StartTimeout: c.StartTimeout,
		MaxMessageBytes: int64(c.MaxMessage), MaxTerminals: c.MaxTerminals, TerminalIdle: c.TerminalIdle, TerminalLinger: c.TerminalLinger,
		FilesConfig: agentapi.FilesConfig{MaxFileBytes: int64(c.SyncMax), Ignore: c.SyncIgnore}, Caps: c.caps(),
	}
	if driver.Capabilities().Isolated || c.WorkDir == "" {
		options.Files = contentsync.New(contentsync.Options{
			Store: files, Log: log, SpoolDir: filepath.Join(c.DataDir, "spool"), MaxFileBytes: int64(c.SyncMax),
		})
	}
	options.Notebooks = notebooks{handlers}
	printed := openOutputLogs(&c.OutputConfig, files, log)
	if printed != nil {
		options.OutputLogs, options.BaseURL = printed, c.BaseURL
	}
	manager := kernels.New(options)
	network.kernels.Store(manager)
	users, err := token.New(token.Options{Users: tokenUsers(&c.Config), Store: store, Log: log})
	if err != nil {
		return err
	}
	defer users.Close()
	proxies, err := c.proxies()
	if err != nil {
		return err
	}
	shutdown := func() { // asked for by the owner, who means the kernels too, as in Jupyter
		c.stopKernels.Store(true)
		stop()
	}
	server, err := kernelgw.New(kernelgw.Options{
		Users: users, Kernels: manager, Log: log, Metrics: metrics,
		Policies: chosen, Secrets: kept, OutputLogs: printed,
		Files: handlers, IsDirectory: isDirectory(files), Usage: files.Usage, Events: events, Frontend: pages, FrontendMissing: missing,
		BaseURL: c.BaseURL, MetricsPublic: c.MetricsPublic, MetricsToken: c.MetricsToken, AdminToken: c.AdminToken,
		MaxMessageBytes: int64(c.MaxMessage), MaxSocketsPerUser: c.MaxSockets,
		AllowOrigins: c.AllowOrigin, AllowCredentials: c.AllowCredentials, FrameAncestors: c.FrameAncestors,
		TrustedProxies: proxies, Shutdown: shutdown,
	})
	if err != nil {
		return err
	}
	warnOfFewDescriptors(c.MaxSockets, log)
	listener, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	address := listener.Addr()
	if c.TLSCert != "" {
		certificate, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return fmt.Errorf("tls_cert, tls_key: %w", err)
		}
		// WebSockets need HTTP/1.1.
		listener = tls.NewListener(listener, &tls.Config{
			Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		})
	}
	again := rereader{read: env.reread, users: users, single: len(c.Users) == 0, images: images, log: log}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, unix.SIGHUP)
	defer signal.Stop(hangups)
	return c.serve(ctx, log, parts{
		manager: manager, server: server, files: files.Store, printed: printed, listener: listener,
		announce: func() { fmt.Fprintln(env.stdout, c.url(address)) },
		reread:   func(ctx context.Context) { again.run(ctx, hangups) },
	})
}

// parts are what runs while the gateway serves.
type parts struct {
	manager  *kernels.Manager
	server   *kernelgw.Server
	files    *s3store.Store
	printed  *outputlog.Logs // nil when what kernels print is not kept
	listener net.Listener
	announce func()                // tells that the gateway is ready
	reread   func(context.Context) // reads what may change again when asked, until ctx ends
}

// serve runs the parts until ctx ends, then stops them in the order in which
// they depend on each other: clients first, kernels last.
func (c *ServeCmd) serve(ctx context.Context, log *slog.Logger, p parts) error {
	lasting := context.WithoutCancel(ctx)
	keeping, stopKeeping := context.WithCancel(lasting)
	defer stopKeeping()
	running, failed := errgroup.WithContext(lasting)
	running.Go(func() error { return p.manager.Run(keeping) })
	running.Go(func() error { return p.server.Serve(p.listener) })
	running.Go(func() error { return p.files.Run(keeping) })
	if p.printed != nil {
		running.Go(func() error { return p.printed.Run(keeping) })
	}
	running.Go(func() error { p.reread(keeping); return nil })
	running.Go(func() error {
		if ready(ctx, failed, p.manager) {
			p.announce()
			select {
			case <-ctx.Done():
			case <-failed.Done():
			}
		}
		log.Info("draining: closing connections", "patience", c.DrainTimeout)
		draining, cancel := context.WithTimeout(lasting, c.DrainTimeout)
		defer cancel()
		err := p.server.Drain(draining)
		if c.OnExit == "stop" || c.stopKernels.Load() {
			log.Info("shutting down all kernels")
			ending, cancel := context.WithTimeout(lasting, shutdownTimeout)
			err = errors.Join(err, p.manager.ShutdownAll(ending))
			cancel()
		}
		stopKeeping()
		return err
	})
	return running.Wait()
}

// ready waits for the gateway to be ready, and reports whether it became so.
func ready(ctx, failed context.Context, manager *kernels.Manager) bool {
	for !manager.Ready() {
		select {
		case <-ctx.Done():
			return false
		case <-failed.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return true
}

// url is what a person opens.
func (c *ServeCmd) url(addr net.Addr) string {
	scheme := "http"
	if c.TLSCert != "" {
		scheme = "https"
	}
	host, port, _ := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	url := scheme + "://" + net.JoinHostPort(host, port) + c.BaseURL
	if c.Token != "" {
		url += "?token=" + c.Token
	}
	return url
}

func tokenUsers(c *Config) []token.User {
	if len(c.Users) == 0 {
		return []token.User{token.Single(c.Token)}
	}
	list := make([]token.User, 0, len(c.Users))
	for _, u := range c.Users {
		list = append(list, token.User{Name: u.Name, DisplayName: u.DisplayName, TokenHashes: u.TokenSHA256, Workspaces: u.Workspaces})
	}
	return list
}

func makeDataDir(dir string) error {
	for _, d := range []string{dir, filepath.Join(dir, "spool")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("cannot make the data directory: %w; choose another with --data-dir", err)
		}
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("cannot write to the data directory %s: %w; choose another with --data-dir", dir, err)
	}
	return nil
}

// keepToken gives a single user without a token a random one that stays the
// same over restarts, so that clients can reconnect.
func (c *Config) keepToken() error {
	if c.Token != "" || len(c.Users) > 0 {
		return nil
	}
	path := filepath.Join(c.DataDir, "token")
	kept, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(kept))) >= 32 {
		c.Token = strings.TrimSpace(string(kept))
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot read the kept token: %w", err)
	}
	c.Token = newToken()
	if err := os.WriteFile(path, []byte(c.Token+"\n"), 0o600); err != nil {
		return fmt.Errorf("cannot keep the new token: %w", err)
	}
	return nil
}

// shutdownTimeout bounds the end of all kernels.
const shutdownTimeout = time.Minute

const (
	defaultListen = "127.0.0.1:8888"
	portAttempts  = 50
)

// listen binds the address. When none is named and the default port is taken,
// it tries the next ports, as Jupyter does.
func listen(ctx context.Context, named string) (net.Listener, error) {
	var config net.ListenConfig
	address := cmp.Or(named, defaultListen)
	listener, err := config.Listen(ctx, "tcp", address)
	if err == nil || named != "" || !errors.Is(err, unix.EADDRINUSE) {
		if err != nil {
			return nil, fmt.Errorf("cannot listen on %s: %w; choose another address with --listen", address, err)
		}
		return listener, nil
	}
	host, port, _ := net.SplitHostPort(address)
	first, _ := strconv.Atoi(port)
	for next := first + 1; next < first+portAttempts; next++ {
		if listener, err := config.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(next))); err == nil {
			return listener, nil
		}
	}
	return nil, fmt.Errorf("cannot listen on any port from %d to %d of %s; choose another address with --listen", first, first+portAttempts-1, host)
}
