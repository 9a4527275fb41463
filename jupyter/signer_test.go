package jupyter_test

import (
	"testing"

	"kernelgw/jupyter"
)

// The signature was made with Python's hmac, as jupyter_client does.
func TestSignature(t *testing.T) {
	m := &jupyter.Message{
		Header: []byte(`{"msg_id":"1"}`), ParentHeader: []byte(`{}`), Metadata: []byte(`{"a":1}`), Content: []byte(`{"code":"x"}`),
		Buffers: [][]byte{[]byte("is not signed")},
	}
	const want = "f533e3a637b6aa457dfc9266325f36ac39312d1a05081b649da6b3a9e4efe3f5"
	if got := jupyter.Sign([]byte("secret"), m); got != want {
		t.Errorf("Sign: %s, want %s", got, want)
	}
	s := jupyter.NewSigner([]byte("secret"))
	for range 2 { // the second finds the state of the first
		if got := s.Sign(m); string(got) != want {
			t.Errorf("Signer.Sign: %s, want %s", got, want)
		}
		if !s.Verify(m, []byte(want)) || !jupyter.Verify([]byte("secret"), m, []byte(want)) {
			t.Error("the right signature was refused")
		}
		for _, wrong := range []string{"", want[:63], want + "0", "0" + want[1:]} {
			if s.Verify(m, []byte(wrong)) || jupyter.Verify([]byte("secret"), m, []byte(wrong)) {
				t.Errorf("signature %q was accepted", wrong)
			}
		}
	}
	unsigned := jupyter.NewSigner(nil)
	if len(unsigned.Sign(m)) != 0 || !unsigned.Verify(m, []byte("anything")) {
		t.Error("an empty key signs")
	}
}

func TestSignerDoesNotAllocate(t *testing.T) {
	m := jupyter.NewStatus(jupyter.Idle, "s")
	s := jupyter.NewSigner([]byte("secret"))
	signature := string(s.Sign(m))
	if n := testing.AllocsPerRun(100, func() {
		if !s.Verify(m, []byte(signature)) {
			t.Error("refused")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
