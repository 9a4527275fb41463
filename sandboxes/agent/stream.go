package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/sandboxes/agent/eventlog"
	"kernelgw/sandboxes/agentapi"
)

// outputRoutes read the event log.
var outputRoutes = []route{
	{http.MethodGet, "/v1/stream", (*Agent).getStream},
	{http.MethodGet, "/v1/output", (*Agent).getOutput},
}

const (
	defaultPage  = 1000    // events
	maxPage      = 10_000  // events
	maxPageBytes = 8 << 20 // from which a page ends
)

// getStream follows the event log, over a WebSocket or as server-sent events.
func (a *Agent) getStream(w http.ResponseWriter, r *http.Request) {
	asked, err := a.hub.readFollow(r)
	if refuse(w, err) {
		return
	}
	if !asked.given {
		asked.at = a.hub.events.End()
	}
	f := a.hub.follow(r.Context(), asked.at, asked.want, agentapi.StreamBeat)
	defer a.hub.unfollow(f)
	if websocket.IsWebSocketUpgrade(r) {
		a.streamSocket(w, r, f)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := &sse{w: newSteadyWriter(f.ctx, w, f.wrote), events: eventWriter{epoch: a.hub.epoch}}
	if f.run(a.over, out) {
		_ = out.end(a.hub.track.currentReason()) // the reader may be gone
	}
}

// refuse answers a request that cannot be served, and reports whether it did.
func refuse(w http.ResponseWriter, err error) bool {
	var refused *refusedRequest
	if errors.As(err, &refused) {
		fail(w, refused.status, refused.message)
	}
	return err != nil
}

// steadyWriter writes an answer that may take long, but not stand still: each
// piece has the time that sockets have without a sign of life.
type steadyWriter struct {
	*bufio.Writer
	control *http.ResponseController
}

func newSteadyWriter(ctx context.Context, w http.ResponseWriter, wrote func(n int)) steadyWriter {
	control := http.NewResponseController(w)
	return steadyWriter{bufio.NewWriterSize(&pieces{w, control, ctx, wrote}, corkBytes), control}
}

// flush writes what was collected, to the network.
func (w steadyWriter) flush() error {
	if err := w.Flush(); err != nil {
		return err
	}
	return w.control.Flush()
}

// pieces sets a deadline for each piece of what is written.
type pieces struct {
	http.ResponseWriter
	control *http.ResponseController
	ctx     context.Context
	wrote   func(n int)
}

func (w *pieces) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		if w.ctx.Err() != nil {
			return n, w.ctx.Err()
		}
		_ = w.control.SetWriteDeadline(time.Now().Add(silence)) // fails without a network only
		var m int
		m, err = w.ResponseWriter.Write(p[n:min(len(p), n+writeChunk)])
		n += m
		w.wrote(m)
	}
	return n, err
}

// sse writes steps as server-sent events (HTML standard, section 9.2).
type sse struct {
	w      steadyWriter
	events eventWriter
	b      []byte // scratch
}

// begin writes an id without data, which readers keep and do not show: one that
// comes back before the first event goes on here.
func (o *sse) begin(at eventlog.Position) error {
	return o.id(at, "\n\n")
}

func (o *sse) id(at eventlog.Position, then string) error {
	o.b = append(o.events.id(append(o.b[:0], "id: "...), at), then...)
	_, err := o.w.Write(o.b)
	return err
}

func (o *sse) event(s *step) error {
	if err := o.id(s.At, "\ndata: "); err != nil {
		return err
	}
	if err := o.events.write(o.w, s); err != nil {
		return err
	}
	_, err := o.w.WriteString("\n\n")
	return err
}

func (o *sse) flush() error { return o.w.flush() }

func (o *sse) beat() error {
	if _, err := o.w.WriteString(": still here\n\n"); err != nil {
		return err
	}
	return o.flush()
}

// end says that nothing more will come.
func (o *sse) end(reason string) error {
	data, err := json.Marshal(agentapi.StreamEnd{Reason: reason})
	if err != nil {
		return err
	}
	if _, err := o.w.WriteString("event: end\ndata: " + string(data) + "\n\n"); err != nil {
		return err
	}
	return o.flush()
}

// getOutput answers with one page of the event log.
func (a *Agent) getOutput(w http.ResponseWriter, r *http.Request) {
	asked, err := a.hub.readFollow(r)
	if refuse(w, err) {
		return
	}
	limit := defaultPage
	if text := r.URL.Query().Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxPage {
			fail(w, http.StatusBadRequest, "limit: a number of events from 1 to "+strconv.Itoa(maxPage))
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	out := newSteadyWriter(r.Context(), w, func(int) {})
	if a.hub.writePage(out, asked, limit) == nil {
		_ = out.flush() // the reader may be gone
	}
}

// writePage writes a page of at most limit events, an error as far as it came.
func (h *hub) writePage(out steadyWriter, asked followRequest, limit int) error {
	events := eventWriter{epoch: h.epoch}
	var lost struct{ messages, bytes uint64 }
	var steps []step
	at, count, size := asked.at, 0, 0
	_, err := out.WriteString(`{"events":[`)
	for err == nil && count < limit && size < maxPageBytes {
		steps = h.events.Follow(&at, asked.want.audience, min(limit-count, followSteps), min(maxPageBytes-size, followBytes), steps[:0])
		for i := range steps {
			s := &steps[i]
			if !asked.want.has(s) || err != nil {
				continue
			}
			if count++; count > 1 {
				_ = out.WriteByte(',') // an error shows at the next
			}
			err = events.write(out, s)
			size += s.Entry.Cost
			lost.messages += s.Lost.Messages
			lost.bytes += s.Lost.Bytes
		}
		clear(steps)
		if len(steps) == 0 {
			break
		}
	}
	if err != nil {
		return err
	}
	b := append(events.id([]byte(`],"next":"`), at), `","end":`...)
	b = strconv.AppendBool(b, at.Seq == h.events.Stats().Last)
	b = append(appendLost(append(b, `,"lost":`...), lost.messages, lost.bytes), "}\n"...)
	_, err = out.Write(b)
	return err
}
