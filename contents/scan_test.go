package contents

import (
	"math/rand/v2"
	"testing"
)

func TestPlainTextStopsWhereMeaningBegins(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		s := make([]byte, r.IntN(40))
		for i := range s {
			switch r.IntN(6) {
			case 0:
				s[i] = byte(r.IntN(256))
			case 1:
				s[i] = "\"\\\x1f \x7f\x80\xff!#[]"[r.IntN(11)]
			default:
				s[i] = byte(' ' + 1 + r.IntN(90))
			}
		}
		want, ascii := 0, true
		for want < len(s) && s[want] != '"' && s[want] != '\\' && s[want] >= ' ' {
			want++
		}
		n, isASCII := plainText(s)
		for _, c := range s[:n] {
			ascii = ascii && c < 0x80
		}
		if n > want || want-n > 7 || n+8 <= len(s) && n != want || isASCII != ascii {
			t.Fatalf("%q: %d bytes, ASCII %v; want %d, %v", s, n, isASCII, want, ascii)
		}
	}
}
