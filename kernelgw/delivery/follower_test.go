package delivery

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/jupytertest"
)

// follower reads the native stream as docs/clients.md says: from the last event
// that it has, over connection after connection, until it has what it waits for.
type follower struct {
	w        *world
	sse      bool
	ctx      context.Context
	stop     context.CancelFunc
	finished chan struct{}

	mu      sync.Mutex
	cut     func()        // ends the connection of now; guarded by mu
	arrived chan struct{} // closed and replaced at each event; guarded by mu
	events  []event       // guarded by mu
	refused error         // guarded by mu
}

// event is one of a stream, as far as it matters here.
type event struct {
	ID      string          `json:"id"`
	Seq     uint64          `json:"seq"`
	Channel jupyter.Channel `json:"channel"`
	Msg     *struct {
		Header       jupyter.Header  `json:"header"`
		ParentHeader json.RawMessage `json:"parent_header"`
		Content      json.RawMessage `json:"content"`
	} `json:"msg"`
	Lost *struct{ Messages, Bytes uint64 } `json:"lost"`
}

// follow reads the log from its beginning, until the world ends or stop is called.
func (w *world) follow(sse bool) *follower {
	f := &follower{w: w, sse: sse, finished: make(chan struct{}), arrived: make(chan struct{}), cut: func() {}}
	f.ctx, f.stop = context.WithCancel(context.Background())
	go func() {
		defer close(f.finished)
		for place := "0"; f.ctx.Err() == nil; {
			ctx, cancel := context.WithCancel(f.ctx)
			f.mu.Lock()
			f.cut = cancel
			f.mu.Unlock()
			place = f.read(ctx, place)
			cancel()
		}
	}()
	return f
}

// read takes what one connection brings and returns where to go on.
func (f *follower) read(ctx context.Context, place string) string {
	if f.sse {
		return f.readEvents(ctx, place)
	}
	f.w.gates.RLock()
	target := f.w.gateway.url("ws", f.target(place))
	f.w.gates.RUnlock()
	ws, resp, err := websocket.DefaultDialer.DialContext(ctx, target, header())
	if err != nil {
		f.failed(resp, err)
		return place
	}
	defer ws.Close()
	defer context.AfterFunc(ctx, func() { reset(ws.NetConn()) })()
	for {
		_, b, err := ws.ReadMessage()
		if err != nil {
			return place
		}
		place = f.take(b, place)
	}
}

func (f *follower) target(place string) string {
	return "/v1/sessions/" + kernelID + "/stream?channels=iopub,shell,control,stdin&last_event_id=" + url.QueryEscape(place)
}

// failed notes an answer that says more than that now is not the time.
func (f *follower) failed(resp *http.Response, err error) {
	if resp != nil && resp.StatusCode != http.StatusServiceUnavailable {
		f.mu.Lock()
		f.refused = fmt.Errorf("%w: %s", err, resp.Status)
		f.mu.Unlock()
		f.stop()
	}
	select {
	case <-f.ctx.Done():
	case <-time.After(5 * time.Millisecond):
	}
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

func (f *follower) readEvents(ctx context.Context, place string) string {
	f.w.gates.RLock()
	target := f.w.gateway.url("http", f.target(place))
	f.w.gates.RUnlock()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		panic(err) // the address is made here
	}
	r.Header = header()
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		f.failed(nil, err)
		return place
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		f.failed(resp, fmt.Errorf("the stream is refused"))
		return place
	}
	lines := bufio.NewReader(resp.Body)
	var data string
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return place // what came without its end did not come
		}
		switch text := strings.TrimSuffix(line, "\n"); {
		case text == "" && data != "":
			place = f.take([]byte(data), place)
			data = ""
		case strings.HasPrefix(text, "data: "):
			data = strings.TrimPrefix(text, "data: ")
		}
	}
}

// take keeps an event and returns its id.
func (f *follower) take(b []byte, place string) string {
	var e event
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := json.Unmarshal(b, &e); err != nil {
		f.refused = fmt.Errorf("%w in %q", err, b)
		f.stop()
		return place
	}
	f.events = append(f.events, e)
	close(f.arrived)
	f.arrived = make(chan struct{})
	return e.ID
}

// await waits until the log has brought the end of a request, and its reply.
func (f *follower) await(request string) {
	f.w.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	idle, replied := false, false
	for looked := 0; ; {
		f.mu.Lock()
		arrived, events := f.arrived, f.events
		f.mu.Unlock()
		for ; looked < len(events); looked++ {
			e := &events[looked]
			if e.Msg == nil || jupyter.PeekID(e.Msg.ParentHeader) != request {
				continue
			}
			idle = idle || jupyter.PeekString(e.Msg.Content, "execution_state") == "idle"
			replied = replied || e.Channel == jupyter.Shell
		}
		if idle && replied {
			return
		}
		select {
		case <-arrived:
		case <-f.finished:
			f.w.t.Fatalf("the stream ended: %v", f.refused)
		case <-timeout.C:
			f.w.t.Fatalf("the stream does not bring the end of a request")
		}
	}
}

// drop cuts the connection of now.
func (f *follower) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut()
}

// end stops the follower and returns what it has received.
func (f *follower) end() ([]event, error) {
	f.stop()
	<-f.finished
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events, f.refused
}

// checkStream demands that a stream has each message exactly once, by its number,
// and that what it lacks is told where it was.
func (m *model) checkStream(events []event) string {
	var last, lost uint64
	got, public, private := 0, 0, 0
	for _, e := range events {
		switch {
		case e.Lost != nil:
			lost += e.Lost.Messages
			if e.Seq != last+e.Lost.Messages {
				return fmt.Sprintf("event %d tells of %d lost ones after %d", e.Seq, e.Lost.Messages, last)
			}
		case e.Msg == nil: // it says only where the stream is
			if e.Seq != last {
				return fmt.Sprintf("a stream that had all up to %d goes on at %d", last, e.Seq)
			}
			continue
		case e.Seq != last+1:
			return fmt.Sprintf("event %d follows %d", e.Seq, last)
		default:
			id := e.Msg.Header.MsgID
			if _, ours := m.sum[id]; !ours {
				break // the kernel's start
			}
			if e.Channel == jupyter.IOPub {
				q := m.at[id]
				if q < public {
					return fmt.Sprintf("message %d comes after %d", q, public-1)
				}
				if problem := m.mayMiss(public, q); problem != "" {
					return problem
				}
				public = q + 1
			}
			got++
			private = max(private, 1+slices.IndexFunc(m.private, func(s jupytertest.Said) bool { return s.ID == id }))
		}
		last = e.Seq
	}
	if want := public + private; got+int(lost) != want {
		return fmt.Sprintf("%d messages came and %d were told to be lost, of %d", got, lost, want)
	}
	return ""
}
