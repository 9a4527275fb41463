package token

import (
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// failures logs refused credentials, a few a second at most, and says how many
// it left out: a guesser fills neither the disk nor the operator's screen.
type failures struct {
	log     *slog.Logger
	limit   *rate.Limiter
	omitted atomic.Int64
}

func newFailures(log *slog.Logger) *failures {
	return &failures{log: log, limit: rate.NewLimiter(rate.Every(time.Second), 5)}
}

// add notes a refusal. Only the peer's address is logged: nothing that the
// request chose.
func (f *failures) add(remoteAddr string) {
	if !f.limit.Allow() {
		f.omitted.Add(1)
		return
	}
	host, _, err := net.SplitHostPort(remoteAddr)
	if err != nil {
		host = "unknown"
	}
	f.log.Warn("credentials refused", "peer", host, "omitted", f.omitted.Swap(0))
}
