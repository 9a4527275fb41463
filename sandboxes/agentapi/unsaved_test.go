package agentapi

import (
	"errors"
	"net/http"
	"testing"
	"unicode/utf8"
)

func FuzzUnsaved(f *testing.F) {
	sum := "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, seed := range []string{
		`[]`, `null`, `{}`, `[{"run":1,"cell":"a","source_sha256":"` + sum + `","outputs":[],"until":3,"execution_count":7}]`,
		`[{"run":-1}]`, `[{"cell":"a","source_sha256":"` + sum + `","ended_ago":-5}]`, `[{"cell":"","source_sha256":"` + sum + `"}]`, `[[[`, `[{"cell":"\ud800"}]`,
	} {
		f.Add([]byte(seed))
	}
	var body []byte
	c := serve(f, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }))
	f.Fuzz(func(t *testing.T, answer []byte) {
		body = answer
		cells, err := c.Unsaved(t.Context(), false)
		if err != nil {
			if !errors.Is(err, ErrLies) {
				t.Fatalf("%q: %v", answer, err)
			}
			return
		}
		for _, u := range cells {
			if u.Cell == "" || len(u.Cell) > MaxCellID || !utf8.ValidString(u.Cell) || len(u.SourceSHA256) != 64 || u.EndedAgo < 0 {
				t.Fatalf("%q: believed %+v", answer, u)
			}
		}
	})
}
