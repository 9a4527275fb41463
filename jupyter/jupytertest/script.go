package jupytertest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"kernelgw/jupyter"
)

// Commands is what the code of an execute_request may say, one command a line.
// Lines are done in order, within the busy and idle of the cell; anything else
// is a NameError.
const Commands = `
print N SIZE [MS]   N stream messages of SIZE bytes that start with "I " (I from 0), MS milliseconds apart
say TEXT            one stream message: TEXT and a newline
warn TEXT           the same on stderr
echo TEXT           execute_result with the text
display SIZE        display_data: image/png of SIZE base64 bytes
error NAME TEXT     error
input PROMPT        input_request; what comes back is printed
comm N SIZE         comm_open, then comm_msg with N buffers of SIZE bytes
flood SIZE          stream messages of SIZE bytes, until interrupted
sleep MS            nothing for MS milliseconds, or until interrupted
never answer        alone: no reply and no status, ever
die CODE            the process ends at once with that exit code, in the middle of the cell
wrong-hmac          a stream message with a wrong signature
truncated           a multipart that ends after the header
no-delimiter        a multipart without <IDS|MSG>
invalid-utf8        a stream message whose text has bytes that are not UTF-8
invalid-json        a stream message whose content is no JSON
huge-frame          a ZMTP frame header that claims 2^49 bytes
claim BYTES         a ZMTP frame header that claims so many bytes, and no more
big SIZE            one stream message of SIZE bytes
bogus-status        a status that is none of the five
`

// scriptError is a failure of the code itself, as a kernel reports it.
type scriptError struct{ name, value string }

func (e *scriptError) Error() string { return e.name + ": " + e.value }

func (k *Kernel) script(ctx context.Context, r *request, code string) error {
	for line := range strings.Lines(code) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		verb, rest, _ := strings.Cut(line, " ")
		if err := k.command(ctx, r, verb, rest); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kernel) command(ctx context.Context, r *request, verb, rest string) error {
	n := numbers(rest)
	switch verb {
	case "print":
		return k.print(ctx, r, n[0], n[1], time.Duration(n[2])*time.Millisecond)
	case "flood":
		return k.print(ctx, r, -1, n[0], 0)
	case "big":
		return k.print(ctx, r, 1, n[0], 0)
	case "say", "warn":
		name := map[string]string{"say": "stdout", "warn": "stderr"}[verb]
		k.publish(k.stream(r, name, rest+"\n"), true)
	case "echo":
		k.publish(k.message(jupyter.IOPub, "execute_result", r, map[string]any{
			"execution_count": k.executions, "data": map[string]any{"text/plain": rest}, "metadata": map[string]any{},
		}), true)
	case "display":
		png := base64.StdEncoding.EncodeToString(make([]byte, n[0]*3/4))
		k.publish(k.message(jupyter.IOPub, "display_data", r, map[string]any{
			"data": map[string]any{"image/png": png, "text/plain": "<Figure>"}, "metadata": map[string]any{}, "transient": map[string]any{},
		}), true)
	case "error":
		name, value, _ := strings.Cut(rest, " ")
		return &scriptError{name, value}
	case "input":
		return k.askInput(ctx, r, rest)
	case "comm":
		k.comm(r, n[0], n[1])
	case "sleep":
		return pause(ctx, time.Duration(n[0])*time.Millisecond)
	case "die":
		k.exit(n[0])
		<-ctx.Done() // the sockets are closed: nothing more is sent
		return errInterrupted
	default:
		return k.misbehave(r, verb, n)
	}
	return nil
}

// misbehave does what no honest kernel does.
func (k *Kernel) misbehave(r *request, verb string, n [3]int) error {
	m := k.stream(r, "stdout", verb+"\n")
	topic := k.topic("stream")
	switch verb {
	case "wrong-hmac":
		k.iopub.publish(k.wireSigned(topic, m, strings.Repeat("0", 64)), true)
	case "truncated":
		k.iopub.publish(appendFrames(nil, topic, []byte("<IDS|MSG>"), []byte(jupyter.Sign(k.key, m)), m.Header), true)
	case "no-delimiter":
		k.iopub.publish(appendFrames(nil, topic, m.Header, m.ParentHeader, m.Metadata, m.Content), true)
	case "invalid-utf8":
		m.Content = []byte("{\"name\":\"stdout\",\"text\":\"caf\xe9 \xff\xfe\"}")
		k.publish(m, true)
	case "invalid-json":
		m.Content = []byte(`{"name":"stdout","text":`)
		k.publish(m, true)
	case "huge-frame":
		k.iopub.publish(claim(1<<49), true)
	case "claim":
		k.iopub.publish(claim(uint64(n[0])), true)
	case "bogus-status":
		k.publish(k.message(jupyter.IOPub, "status", r, map[string]any{"execution_state": "suspended"}), true)
	default:
		return &scriptError{"NameError", fmt.Sprintf("name %q is not defined", verb)}
	}
	return nil
}

// claim is the header of a frame of that length.
func claim(size uint64) []byte { return binary.BigEndian.AppendUint64([]byte{2}, size) }

// print sends n messages, for ever when n is negative.
func (k *Kernel) print(ctx context.Context, r *request, n, size int, every time.Duration) error {
	filler := bytes.Repeat([]byte("x"), max(size, 1))
	topic := k.topic("stream")
	signer := jupyter.NewSigner(k.key)
	for i := 0; i != n; i++ {
		if ctx.Err() != nil {
			return errInterrupted
		}
		content := append(make([]byte, 0, size+64), `{"name":"stdout","text":"`...)
		start := len(content)
		content = strconv.AppendInt(content, int64(i), 10)
		content = append(content, ' ')
		content = append(content, filler[:max(0, size-(len(content)-start)-1)]...)
		content = append(content, `\n"}`...)
		m := &jupyter.Message{
			Channel: jupyter.IOPub, Header: k.header("stream"), ParentHeader: r.Header, Metadata: []byte("{}"), Content: content,
		}
		k.transcribe(m)
		k.iopub.publish(k.wireSigned(topic, m, string(signer.Sign(m))), every > 0)
		if every > 0 {
			if err := pause(ctx, every); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *Kernel) stream(r *request, name, text string) *jupyter.Message {
	return k.message(jupyter.IOPub, "stream", r, map[string]any{"name": name, "text": text})
}

// askInput asks the client that sent the request, and nobody else: by its
// routing identity.
func (k *Kernel) askInput(ctx context.Context, r *request, prompt string) error {
	p := k.stdin.find(r.peer.identity)
	if p == nil {
		return &scriptError{"StdinNotImplementedError", "the client has no stdin socket of that identity"}
	}
	for len(k.input) > 0 { // of a cell before
		<-k.input
	}
	m := k.message(jupyter.Stdin, "input_request", r, map[string]any{"prompt": prompt, "password": false})
	k.transcribe(m)
	p.send(k.wire(nil, m), true)
	select {
	case <-ctx.Done():
		return errInterrupted
	case answer := <-k.input:
		var content struct {
			Value string `json:"value"`
		}
		if err := json.Unmarshal(answer.Content, &content); err != nil {
			return &scriptError{"ValueError", err.Error()}
		}
		k.publish(k.stream(r, "stdout", content.Value+"\n"), true)
		return nil
	}
}

func (k *Kernel) comm(r *request, n, size int) {
	id := jupyter.NewID()
	k.publish(k.message(jupyter.IOPub, "comm_open", r, map[string]any{"comm_id": id, "target_name": "fake", "data": map[string]any{}}), true)
	m := k.message(jupyter.IOPub, "comm_msg", r, map[string]any{"comm_id": id, "data": map[string]any{"method": "update"}})
	for i := range n {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(i + j + 0x80) // no UTF-8, so that a text encoding of it would fail
		}
		m.Buffers = append(m.Buffers, b)
	}
	k.publish(m, true)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return errInterrupted
	case <-time.After(d):
		return nil
	}
}

// numbers reads up to three numbers, 0 for what is none.
func numbers(s string) (n [3]int) {
	for i, f := range strings.Fields(s) {
		if i == len(n) {
			break
		}
		n[i], _ = strconv.Atoi(f) // text is no number: 0
	}
	return n
}
