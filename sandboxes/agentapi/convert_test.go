package agentapi

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode"
)

func TestExportersOfAnAgentThatLiesAreLeftOut(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"html":{"output_mimetype":"text/html"},"custom":{},"a/b":{},"":{},"evil":{"output_mimetype":"text/html\r\nX: y"}}`)
	}))
	found, err := c.Exporters(t.Context())
	if err != nil || len(found) != 2 || found["html"].Mimetype != "text/html" {
		t.Errorf("exporters %v, %v", found, err)
	}
}

func TestDocumentEndsAfterItsBytes(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "{\"filename\":\"a.txt\",\"size\":3}\nabcdef")
	}))
	_, content, err := c.Convert(t.Context(), ConvertRequest{Exporter: "script"}, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if b, err := io.ReadAll(content); err != nil || string(b) != "abc" {
		t.Errorf("%q, %v", b, err)
	}
}

func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		"{\"mimetype\":\"text/html\",\"filename\":\"a.html\",\"size\":3}\nabc", "{\"filename\":\"../x\",\"size\":-1}\n", "\n", "",
		"{\"filename\":\"a\\u0000\\r\\n\",\"mimetype\":\"a;b\",\"size\":1e99}\n", "[]\n", "null\n", strings.Repeat("x", 100),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		d, content, err := readDocument(strings.NewReader(answer))
		if err != nil {
			if !errors.Is(err, ErrLies) && !errors.Is(err, io.EOF) {
				t.Errorf("an error of nobody: %v", err)
			}
			return
		}
		if d.Size < 0 || d.Size > MaxDocumentBytes || d.Filename == "" || strings.ContainsAny(d.Filename, `/\`) ||
			strings.ContainsFunc(d.Filename+d.Mimetype, unicode.IsControl) || strings.ContainsAny(d.Mimetype, "; ,") {
			t.Errorf("believed %+v", d)
		}
		rest, err := io.ReadAll(content)
		if err != nil || !strings.HasSuffix(answer, "\n"+string(rest)) {
			t.Errorf("the content is %q, %v", rest, err)
		}
	})
}
