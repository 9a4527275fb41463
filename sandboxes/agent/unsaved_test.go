package agent

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"kernelgw/jupyter"
	"kernelgw/sandboxes/agentapi"
)

// What clients say in the metadata of a request, what kernels say of it, and what
// the gateway says was saved.
func FuzzCells(f *testing.F) {
	f.Add([]byte(`{"cellId":"a"}`), []byte(`{"code":"x"}`), []byte(`{"name":"stdout","text":"a\nb"}`), []byte(`[{"run":1,"until":3}]`))
	f.Add([]byte(`{"cellId":["a"]}`), []byte(`{"code":7}`), []byte(`{"text":`), []byte(`[{"run":1,"drop":true}]`))
	f.Add([]byte(`{"cellId":"\ud800\""}`), []byte(`{"code":"\ud800"}`), []byte(`{"data":{"text/plain":["a"]},"transient":{"display_id":"d"}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, metadata, request, content, saved []byte) {
		a := &Agent{hub: newHub(&Options{Config: agentapi.Config{LogBytes: 1 << 20}}, func() {})}
		h, c := a.hub, &client{left: true}
		h.cellRequested(c, &jupyter.Message{Metadata: metadata, Content: request}, "m")
		h.cellBegan("m")
		for _, msgType := range []string{"stream", "display_data", "update_display_data", "execute_result", "error", "clear_output", "execute_input"} {
			h.events.Append(entry(&jupyter.Message{
				Channel: jupyter.IOPub, Header: []byte(fmt.Sprintf(`{"msg_type":%q}`, msgType)), ParentHeader: []byte(`{"msg_id":"m"}`), Metadata: []byte("{}"), Content: bytes.Clone(content),
			}, "", kindDisplay, false))
		}
		h.cellEnded("m", h.events.End().Seq)
		told := httptest.NewRecorder()
		a.getUnsaved(told, httptest.NewRequest(http.MethodGet, "/v1/unsaved?all=1", nil))
		if told.Code != http.StatusOK {
			t.Fatalf("%d %s", told.Code, told.Body)
		}
		a.postUnsaved(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/v1/unsaved", bytes.NewReader(saved)))
	})
}
