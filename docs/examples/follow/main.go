// Command follow is an example of a client: it prints what a session's kernel
// says, each message once, to the end.
//
//	TOKEN=... follow URL SESSION
//
// URL is the server's, or .../w/NAME of a workspace; SESSION is the id of a
// session or of a kernel. A connection that breaks, and a server that is killed
// and comes back, cost nothing but time. It knows nothing of ours but the URL.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "follow:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) != 2 {
		return errors.New("usage: TOKEN=... follow URL SESSION")
	}
	f := follower{url: strings.TrimSuffix(args[0], "/"), token: os.Getenv("TOKEN"), session: args[1], last: "0", pause: time.Second}
	return f.run(ctx, func(e event) error {
		if e.Lost != nil {
			_, err := fmt.Fprintf(stderr, "lost: %d messages, %d bytes\n", e.Lost.Messages, e.Lost.Bytes)
			return err
		}
		if e.Msg.Header.Type != "stream" {
			return nil
		}
		out := stdout
		if e.Msg.Content.Name == "stderr" {
			out = stderr
		}
		_, err := io.WriteString(out, e.Msg.Content.Text)
		return err
	})
}

// event is what this example needs of one.
type event struct {
	ID  string `json:"id"` // who keeps it with what it made of the event can go on there later
	Msg struct {
		Header struct {
			Type string `json:"msg_type"`
		} `json:"header"`
		Content struct {
			Name string `json:"name"` // stdout or stderr
			Text string `json:"text"`
		} `json:"content"`
	} `json:"msg"`
	Lost *struct{ Messages, Bytes uint64 } `json:"lost"`
}

// silence is after how long a connection is taken for dead: the server says
// something every 15 s.
const silence = 45 * time.Second

type follower struct {
	url, token, session string
	last                string        // the id of the last event; "0" is the beginning
	pause               time.Duration // before coming back
}

// run calls seen for each event until the kernel is gone for good, which is no
// error, or seen returns one.
func (f *follower) run(ctx context.Context, seen func(event) error) error {
	for {
		end, err := f.connection(ctx, seen)
		if end || err != nil {
			return err
		}
		select {
		case <-time.After(f.pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// connection follows over one connection. It returns false, and no error, when
// that is over and another may do.
func (f *follower) connection(ctx context.Context, seen func(event) error) (end bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(silence, cancel)
	defer silent.Stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/v1/sessions/"+f.session+"/stream", nil)
	if err != nil {
		return false, err
	}
	r.Header.Set("Authorization", "token "+f.token)
	r.Header.Set("Last-Event-ID", f.last)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false, nil
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false, nil // the server, or a proxy before it, is busy or restarts
	default: // 404: there is no such session any more; 410: its kernel is another
		message, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return false, fmt.Errorf("%s: %s", resp.Status, message)
	}
	var name, data, id string
	for lines := bufio.NewReader(resp.Body); ; silent.Reset(silence) {
		line, err := lines.ReadString('\n')
		if err != nil {
			return false, nil // what came of an event that did not end comes again
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data += value
		case "retry":
			if n, err := strconv.Atoi(value); err == nil {
				f.pause = time.Duration(n) * time.Millisecond
			}
		}
		if line != "\n" {
			continue
		}
		switch {
		case name == "end":
			return true, nil
		case data != "":
			var e event
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				return false, fmt.Errorf("an event is no JSON: %w", err)
			}
			if err := seen(e); err != nil {
				return false, err
			}
		}
		if id != "" {
			f.last = id
		}
		name, data, id = "", "", ""
	}
}
