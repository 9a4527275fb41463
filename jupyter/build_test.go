package jupyter_test

import (
	"encoding/json"
	"regexp"
	"testing"

	"kernelgw/jupyter"
)

// JavaScript clients throw away a message of which a header field is missing or
// no string, or whose parent header is null.
func TestSyntheticMessagesAreComplete(t *testing.T) {
	request, err := jupyter.NewMessage(jupyter.Control, "shutdown_request", "me", map[string]bool{"restart": true})
	if err != nil {
		t.Fatal(err)
	}
	empty, err := jupyter.NewMessage(jupyter.Shell, "kernel_info_request", "me", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		m                        *jupyter.Message
		channel                  jupyter.Channel
		msgType, parent, content string
	}{
		{jupyter.NewStatus(jupyter.Restarting, "me"), jupyter.IOPub, "status", `{}`, `{"execution_state":"restarting"}`},
		{jupyter.NewStream("stderr", "lost\n", "me", nil), jupyter.IOPub, "stream", `{}`, `{"name":"stderr","text":"lost\n"}`},
		{jupyter.NewStream("stderr", "lost", "me", []byte(`{"msg_id":"p"}`)), jupyter.IOPub, "stream", `{"msg_id":"p"}`, `{"name":"stderr","text":"lost"}`},
		{request, jupyter.Control, "shutdown_request", `{}`, `{"restart":true}`},
		{empty, jupyter.Shell, "kernel_info_request", `{}`, `{}`},
	} {
		var h map[string]any
		if err := json.Unmarshal(tc.m.Header, &h); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"msg_id", "msg_type", "session", "username", "date", "version"} {
			if s, ok := h[key].(string); !ok || s == "" {
				t.Errorf("%s: header %s is %v", tc.msgType, key, h[key])
			}
		}
		if h["msg_type"] != tc.msgType || h["session"] != "me" {
			t.Errorf("header %s", tc.m.Header)
		}
		if date := h["date"].(string); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`).MatchString(date) {
			t.Errorf("date %q", date)
		}
		if tc.m.Channel != tc.channel || string(tc.m.ParentHeader) != tc.parent || string(tc.m.Metadata) != "{}" || string(tc.m.Content) != tc.content {
			t.Errorf("%s on %s: parent %s, metadata %s, content %s", tc.msgType, tc.m.Channel, tc.m.ParentHeader, tc.m.Metadata, tc.m.Content)
		}
	}
	if a, b := jupyter.NewID(), jupyter.NewID(); a == b || len(a) != 32 {
		t.Errorf("ids %q, %q", a, b)
	}
	if _, err := jupyter.NewMessage(jupyter.Shell, "x", "me", func() {}); err == nil {
		t.Error("content that is no JSON is no error")
	}
}
