package servers

import (
	"context"
	"errors"
	"net/url"
	"time"

	"kernelgw/conformance/probe"
)

// outage is how long the network is away when it is broken.
const outage = 500 * time.Millisecond

// Way is how clients reach a gateway out in the world: over a network, and
// through nginx. Its Base is at the clients' end.
type Way struct {
	probe.Server
	gateway, nginx *Process
	link           *link
	patient        bool
}

// ThroughNginx lays a way to a gateway. A patient nginx keeps the processes of an
// old configuration as long as they have a connection, as it does by default;
// another cuts their connections after a second (worker_shutdown_timeout).
// The error is ErrNoNginx where there is none.
func ThroughNginx(ctx context.Context, gateway *Process, patient bool) (*Way, error) {
	main := "worker_shutdown_timeout 1s;"
	if patient {
		main = ""
	}
	w := &Way{gateway: gateway, patient: patient}
	var err error
	if w.nginx, err = nginx(ctx, &gateway.Server, main); err != nil {
		return nil, err
	}
	u, err := url.Parse(w.nginx.Base)
	if err == nil {
		w.link, err = newLink(u.Host)
	}
	if err != nil {
		return nil, errors.Join(err, w.nginx.Stop())
	}
	w.Server = probe.Server{Base: "http://" + w.link.listener.Addr().String() + "/", Token: gateway.Token}
	return w, nil
}

// Close takes the way down, and leaves the gateway.
func (w *Way) Close() error { return errors.Join(w.link.close(), w.nginx.Stop()) }

// Log returns the end of what nginx logged.
func (w *Way) Log() string { return w.nginx.Log() }

// Fault is something that goes wrong on a way, and is over when Do returns.
type Fault struct {
	Name string
	Do   func(context.Context) error
}

// Faults are three breaks of the network, two kills of the gateway and a reload of
// nginx. The network is away while the gateway is, as when a machine is lost: a
// client that asks meanwhile is not refused. (JupyterLab waits 10 to 30 seconds
// when it is.)
func (w *Way) Faults() []Fault {
	return []Fault{
		{"the network resets the connection", w.Cut},
		{"the gateway is killed", w.CrashUnseen},
		{"nginx reloads", w.Reload},
		{"the network forgets the connection", w.Forget},
		{"the gateway is killed again", w.CrashUnseen},
		{"the network resets the connection again", w.Cut},
	}
}

// Cut resets every connection, at both ends.
func (w *Way) Cut(ctx context.Context) error {
	w.link.cut()
	defer w.link.mend()
	return sleep(ctx, outage)
}

// Forget resets every connection at the client's end; nginx hears nothing of it.
func (w *Way) Forget(ctx context.Context) error {
	w.link.forget()
	defer w.link.mend()
	return sleep(ctx, outage)
}

// Stall lets nothing cross for a while, and loses nothing.
func (w *Way) Stall(ctx context.Context) error {
	w.link.stall()
	defer w.link.mend()
	return sleep(ctx, outage)
}

// Crash kills the gateway as kill -9 does, and starts it again.
func (w *Way) Crash(ctx context.Context) error {
	if err := w.gateway.Kill(); err != nil {
		return err
	}
	return w.gateway.Restart(ctx)
}

// CrashUnseen is Crash while there is no network.
func (w *Way) CrashUnseen(ctx context.Context) error {
	w.link.cut()
	defer w.link.mend()
	return w.Crash(ctx)
}

// Reload makes nginx read its configuration again.
func (w *Way) Reload(ctx context.Context) error { return w.nginx.reload(ctx, !w.patient) }

// CrashNginx kills nginx as kill -9 does, and starts it again.
func (w *Way) CrashNginx(ctx context.Context) error {
	if err := w.nginx.killGroup(); err != nil {
		return err
	}
	return w.nginx.startNginx(ctx)
}
