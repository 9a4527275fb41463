package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
)

// A kernel with large messages waits for who reads slowly, and for one who reads
// nothing so long once, whatever it says then.
func TestAClientThatReadsNothingIsWaitedForASecond(t *testing.T) {
	inBubble(t, channelsPath, func(h *hub, _ *websocket.Conn) {
		text, parent := strings.Repeat("x", 80_000), []byte(`{"msg_id":"cell"}`)
		began := time.Now()
		for range 1000 { // five times the log
			h.fromKernel(jupyter.NewStream("stdout", text, "kernel", parent), []byte("own"))
		}
		if waited := time.Since(began); waited < time.Second/2 || waited > time.Second+100*time.Millisecond {
			t.Errorf("a kernel waited %v for a client that reads nothing, want %v", waited, time.Second)
		}
	})
}
