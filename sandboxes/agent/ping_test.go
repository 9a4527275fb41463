package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// pingedReader reads what an agent in a bubble sends, and tells of each message
// and each ping when it comes. It answers pings.
func pingedReader(ws *websocket.Conn, message func(bytes int), ping func()) (ended <-chan struct{}) {
	ws.SetPingHandler(func(payload string) error {
		ping()
		return ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(time.Second))
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, b, err := ws.ReadMessage()
			if err != nil {
				return
			}
			message(len(b))
		}
	}()
	return done
}

// What a client got is acknowledged soon, also while a kernel prints so slowly
// that no count of messages or bytes is reached.
func TestAPingFollowsOutputWithin50Milliseconds(t *testing.T) {
	inBubble(t, channelsPath, func(h *hub, ws *websocket.Conn) {
		var unpinged time.Time // since when there is a message without a ping
		var worst time.Duration
		messages := 0
		seen := func() {
			if !unpinged.IsZero() {
				worst = max(worst, time.Since(unpinged))
			}
		}
		ended := pingedReader(ws, func(int) {
			messages++
			seen()
			if unpinged.IsZero() {
				unpinged = time.Now()
			}
		}, func() { seen(); unpinged = time.Time{} })
		for range 100 {
			h.publishError("a line", nil)
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(time.Second)
		ws.Close()
		<-ended
		if messages != 100 || worst > 50*time.Millisecond || !unpinged.IsZero() {
			t.Errorf("of %d messages one waited %v for a ping; the last waits since %v", messages, worst, unpinged)
		}
	})
}

func TestAPingFollows64KiBOfOutput(t *testing.T) {
	inBubble(t, channelsPath, func(h *hub, ws *websocket.Conn) {
		const size = 10 << 10
		volume, most, messages := 0, 0, 0
		ended := pingedReader(ws, func(bytes int) { messages++; volume += bytes; most = max(most, volume) }, func() { volume = 0 })
		for range 50 {
			h.publishError(strings.Repeat("x", size), nil)
		}
		time.Sleep(time.Second)
		ws.Close()
		<-ended
		if messages != 50 || most >= 64<<10+size+1<<10 {
			t.Errorf("%d messages, up to %d bytes without a ping, want no more than 64 KiB and a message", messages, most)
		}
	})
}
