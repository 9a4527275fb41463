// Package telemetry is how the gateway tells operators what it does: metrics
// on a registry of its own, and structured logs that hold no secrets.
package telemetry

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the gateway's metrics. Labels come from fixed sets: never a
// kernel, a user, a path or an error's text. Safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	Kernels       *prometheus.GaugeVec   // by execution state
	KernelStarts  *prometheus.CounterVec // by result: "ready", "failed"
	StartSeconds  prometheus.Histogram   // from the request to the first answer of the kernel
	Sockets       prometheus.Gauge       // open kernel WebSockets
	Bytes         *prometheus.CounterVec // by direction: "in" from clients, "out" to clients
	Messages      *prometheus.CounterVec // WebSocket messages, by direction
	Replayed      prometheus.Counter     // messages that agents sent again after a reconnect
	Dropped       prometheus.Counter     // messages that left an event log before a client got them
	AgentErrors   *prometheus.CounterVec // by operation: "watch", "request", "connect", "ready", "files", "outputs", "log"
	Requests      *prometheus.CounterVec // HTTP requests, by route pattern and status class
	AuthFailures  *prometheus.CounterVec // by access class
	SandboxErrors *prometheus.CounterVec // by operation: "create", "destroy", "list"
}

// NewMetrics returns metrics on a fresh registry, with the Go runtime's and the
// process's own.
func NewMetrics() *Metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "kernelgw", Name: name, Help: help}, labels)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "kernelgw", Name: name, Help: help})
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		Kernels: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "kernelgw", Name: "kernels", Help: "Kernels by execution state.",
		}, []string{"state"}),
		KernelStarts: counters("kernel_starts_total", "Kernel starts by result.", "result"),
		StartSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "kernelgw", Name: "kernel_start_seconds",
			Help:    "Time from a start request to the kernel's first answer.",
			Buckets: []float64{.1, .2, .35, .5, .75, 1, 1.5, 2, 3, 5, 8, 13, 21, 34, 60},
		}),
		Sockets: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "kernelgw", Name: "sockets", Help: "Open kernel WebSockets.",
		}),
		Bytes:         counters("socket_bytes_total", "Bytes over kernel WebSockets by direction.", "direction"),
		Messages:      counters("socket_messages_total", "Messages over kernel WebSockets by direction.", "direction"),
		Replayed:      counter("replayed_messages_total", "Messages that agents sent again after a reconnect."),
		Dropped:       counter("dropped_messages_total", "Messages that left an event log before a client got them."),
		AgentErrors:   counters("agent_errors_total", "Failed exchanges with agents by operation.", "operation"),
		Requests:      counters("http_requests_total", "HTTP requests by route and status class.", "route", "status"),
		AuthFailures:  counters("auth_failures_total", "Refused requests by access class.", "access"),
		SandboxErrors: counters("sandbox_errors_total", "Failed driver operations.", "operation"),
	}
	m.registry.MustRegister(
		m.Kernels, m.KernelStarts, m.StartSeconds, m.Sockets, m.Bytes, m.Messages, m.Replayed, m.Dropped,
		m.AgentErrors, m.Requests, m.AuthFailures, m.SandboxErrors,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Handler serves the metrics in the Prometheus text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}
