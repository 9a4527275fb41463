package terminal

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// A client whose machine went to sleep, or whose cable was pulled, closes nothing.

// hijacked is the answer to an upgrade on conn.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// inBubble lets a client look at a terminal without a shell, in a bubble of
// synctest, where waiting takes no time. served is closed when the terminal has
// no more to do with the client.
func inBubble(t *testing.T, test func(t *testing.T, tm *terminal, client *websocket.Conn, served <-chan struct{})) {
	synctest.Test(t, func(t *testing.T) {
		tm := &terminal{
			log: slog.New(slog.DiscardHandler), dying: make(chan struct{}), drawn: make(chan struct{}, 1),
			viewers: map[*viewer]struct{}{}, size: defaultSize,
		}
		ours, theirs := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			r, err := http.ReadRequest(bufio.NewReader(theirs))
			if err != nil {
				t.Error(err)
				return
			}
			ws, err := (&websocket.Upgrader{}).Upgrade(hijacked{httptest.NewRecorder(), theirs}, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			tm.serve(ws)
		}()
		d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return ours, nil }}
		client, _, err := d.Dial("ws://terminal/", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			ours.Close()
			<-served
			if left := tm.looking(); left != 0 {
				t.Errorf("%d clients still look at the terminal", left)
			}
		}()
		test(t, tm, client, served)
	})
}

// looking is how many clients look at the terminal.
func (t *terminal) looking() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.viewers)
}

// cutWithin waits until the terminal has nothing more to do with the client.
func cutWithin(t *testing.T, served <-chan struct{}, least, most time.Duration) {
	t.Helper()
	begin := time.Now()
	select {
	case <-served:
	case <-time.After(time.Hour):
		t.Fatal("the client is never cut")
	}
	if took := time.Since(begin); took < least || took > most {
		t.Errorf("cut after %v, want %v to %v", took, least, most)
	}
}

func TestAClientThatAnswersNoPingIsCutAndToldToComeBack(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *terminal, client *websocket.Conn, served <-chan struct{}) {
		client.SetPingHandler(func(string) error { return nil })
		ended := make(chan error, 1)
		go func() {
			for {
				if _, _, err := client.ReadMessage(); err != nil {
					ended <- err
					return
				}
			}
		}()
		cutWithin(t, served, stallLimit, stallLimit+2*pingEvery)
		var closed *websocket.CloseError
		if err := <-ended; !errors.As(err, &closed) || closed.Code != websocket.CloseTryAgainLater {
			t.Errorf("the client was told %v", err)
		}
	})
}

func TestAClientThatDoesNotReadIsCut(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *terminal, _ *websocket.Conn, served <-chan struct{}) {
		cutWithin(t, served, time.Second, writePatience+2*closeTime)
	})
}

// The program goes on printing meanwhile, and others look at it.
func TestAClientThatStopsReadingInTheMiddleOfOutputIsCut(t *testing.T) {
	inBubble(t, func(t *testing.T, tm *terminal, client *websocket.Conn, served <-chan struct{}) {
		if _, first, err := client.ReadMessage(); err != nil || !strings.Contains(string(first), "setup") {
			t.Fatalf("first came %q, %v", first, err)
		}
		for range 3 {
			tm.publish(strings.Repeat("x", chunkBytes))
		}
		cutWithin(t, served, time.Second, writePatience+2*closeTime)
	})
}

func TestAClientThatAnswersPingsStays(t *testing.T) {
	inBubble(t, func(t *testing.T, tm *terminal, client *websocket.Conn, served <-chan struct{}) {
		answer, pings := client.PingHandler(), 0
		client.SetPingHandler(func(payload string) error {
			pings++
			return answer(payload)
		})
		got := make(chan string, 1)
		go func() {
			for {
				_, b, err := client.ReadMessage()
				if err != nil {
					close(got)
					return
				}
				if strings.Contains(string(b), "late") {
					got <- string(b)
				}
			}
		}()
		time.Sleep(time.Hour)
		tm.publish("late")
		if text, ok := <-got; !ok || text != `["stdout","late"]` {
			t.Errorf("after an hour came %q", text)
		}
		select {
		case <-served:
			t.Error("it was cut")
		default:
		}
		client.Close()
		<-got
		if pings < 100 {
			t.Errorf("%d pings came in an hour", pings)
		}
	})
}
