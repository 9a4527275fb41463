package wsproto_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
)

var update = flag.Bool("update", false, "write what is encoded now into the golden files")

// A golden file has a message and what each encoding makes of it:
//
//	channel: iopub
//	header: {...}
//	...
//	buffer: 00ff (hexadecimal; one line each)
//	-- v1 binary --
//	hexadecimal dump
//
// Escapes of Go's %q stand in text lines for bytes that are no UTF-8.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".golden"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, _, _ := strings.Cut(string(b), "-- ")
			m := parseGolden(t, input)
			got := input
			for _, enc := range []wsproto.Encoding{wsproto.V1, wsproto.Legacy, wsproto.LegacyText} {
				payload, binary := wsproto.Append(nil, enc, &m)
				if binary {
					got += fmt.Sprintf("-- %s binary --\n%s", enc, hex.Dump(payload))
				} else {
					got += fmt.Sprintf("-- %s text --\n%s\n", enc, payload)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(b) {
				t.Errorf("encodings differ (run with -update after a wanted change):\n%s\nwant:\n%s", got, b)
			}
		})
	}
}

func parseGolden(t *testing.T, input string) jupyter.Message {
	t.Helper()
	var m jupyter.Message
	for line := range strings.Lines(input) {
		key, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !found {
			t.Fatalf("line %q has no key", line)
		}
		raw := []byte(value)
		for { // \xNN
			i := bytes.Index(raw, []byte(`\x`))
			if i < 0 || i+4 > len(raw) {
				break
			}
			c, err := hex.DecodeString(string(raw[i+2 : i+4]))
			if err != nil {
				t.Fatal(err)
			}
			raw = bytes.Join([][]byte{raw[:i], raw[i+4:]}, c)
		}
		switch key {
		case "channel":
			m.Channel = jupyter.Channel(value)
		case "header":
			m.Header = raw
		case "parent":
			m.ParentHeader = raw
		case "metadata":
			m.Metadata = raw
		case "content":
			m.Content = raw
		case "buffer":
			b, err := hex.DecodeString(value)
			if err != nil {
				t.Fatal(err)
			}
			m.Buffers = append(m.Buffers, b)
		default:
			t.Fatalf("unknown key %q", key)
		}
	}
	return m
}
