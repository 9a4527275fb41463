package agentapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path"
	"strings"
	"testing"
	"time"
)

const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: kernelgw-files\r\n\r\n"

func TestLinkCarriesWhatComesWithTheAnswer(t *testing.T) {
	c := lie(t, func(conn net.Conn) {
		io.WriteString(conn, switched+"early")
		io.WriteString(conn, " and late")
	})
	conn, err := c.LinkFiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "early and late" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestLinkIsLongerThanAHeaderMayBe(t *testing.T) {
	const size = 3 * MaxHeaderBytes
	c := lie(t, func(conn net.Conn) { io.WriteString(conn, switched+strings.Repeat("x", size)) })
	conn, err := c.LinkFiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := io.Copy(io.Discard, conn); err != nil || n != size {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestAgentThatLiesAboutALink(t *testing.T) {
	for name, answer := range map[string]string{
		"no upgrade":       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"another protocol": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"endless header":   "HTTP/1.1 101 Switching Protocols\r\nX-Long: " + strings.Repeat("x", 10*MaxHeaderBytes),
		"nothing":          "",
		"noise":            "\xff\xff\xff\xff\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := lie(t, func(conn net.Conn) { io.WriteString(conn, answer) })
			conn, err := c.LinkFiles(t.Context())
			if err == nil {
				conn.Close()
				t.Fatal("it was taken for a link")
			}
			var refused *StatusError
			if !errors.Is(err, ErrLies) && !errors.Is(err, ErrGone) && !errors.As(err, &refused) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAgentThatIsSilentAboutALink(t *testing.T) {
	silent := make(chan struct{})
	defer close(silent)
	c := lie(t, func(net.Conn) { <-silent })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.LinkFiles(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func FuzzLinkAnswer(f *testing.F) {
	for _, answer := range []string{
		switched, switched + "PRI * HTTP/2.0", switched[:len(switched)-2], "HTTP/1.1 101 \nUpgrade: KERNELGW-files\n\nearly", "",
		"HTTP/1.1 100 Continue\r\n\r\n" + switched, "HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\n\r\n{\"message\":\"x\"}",
		"HTTP/1.1 500 \r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx", "HTTP/9.9 -1 x\r\n\r\n",
		"HTTP/1.1 101 x\r\nContent-Length: 99999999999\r\nUpgrade: kernelgw-files\r\n\r\n", "HTTP/1.1 503 \r\nX: " + strings.Repeat("x", MaxHeaderBytes),
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		ours, theirs := net.Pipe()
		lying := make(chan struct{})
		go func() {
			defer close(lying)
			defer theirs.Close()
			go io.Copy(io.Discard, theirs) // the request; ends with the pipe
			theirs.Write(answer)
		}()
		defer func() { <-lying }()
		defer ours.Close()
		c := &Client{Token: "t", dial: func(context.Context) (net.Conn, error) { return ours, nil }}
		conn, err := c.LinkFiles(t.Context())
		if err != nil {
			var refused *StatusError
			if !errors.Is(err, ErrLies) && !errors.Is(err, ErrGone) && !errors.As(err, &refused) {
				t.Errorf("got %v", err)
			}
			return
		}
		rest, err := io.ReadAll(conn)
		if err != nil || !bytes.HasSuffix(answer, rest) || len(rest) == len(answer) {
			t.Errorf("the link carries %q, %v", rest, err)
		}
	})
}

func FuzzFilesPath(f *testing.F) {
	for _, p := range []string{"a", "a/b", "..", "/a", "a//b", "a/./b", "\xff", "a\x00", "ünï/日本", strings.Repeat("a/", 100), ""} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if CheckFilesPath(p) != nil {
			return
		}
		if p != path.Clean(p) || path.IsAbs(p) || p == "." || p == ".." || strings.HasPrefix(p, "../") || len(p) > 1024 {
			t.Errorf("%q is taken for a path", p)
		}
	})
}
