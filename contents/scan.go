package contents

import (
	"encoding/binary"
	"math/bits"
)

// Eight bytes at a time: all ones, all high bits, and one of each byte that means
// something in a JSON string.
const (
	eachByte   = 0x0101010101010101
	eachHigh   = 0x80 * eachByte
	eachQuote  = '"' * eachByte
	eachEscape = '\\' * eachByte
	eachSpace  = ' ' * eachByte
)

// plainText returns how many bytes at the beginning of s have no meaning in a JSON
// string, as quotes, backslashes and control characters have, and whether all of
// these are ASCII. It may stop short of the first that has one, by up to seven.
// Most of a notebook is such text, and each save looks at it twice.
func plainText(s []byte) (n int, ascii bool) {
	high := uint64(0)
	for ; n+8 <= len(s); n += 8 {
		w := binary.LittleEndian.Uint64(s[n:])
		quote, escape := w^eachQuote, w^eachEscape
		// A byte below b has its high bit set in w - b, as has a larger one with a
		// borrow from below it: then too much is found, but only behind a byte that is.
		found := ((quote-eachByte)&^quote | (escape-eachByte)&^escape | (w-eachSpace)&^w) & eachHigh
		if found != 0 {
			k := bits.TrailingZeros64(found) / 8
			if k > 0 {
				high |= w << (64 - 8*k)
			}
			n += k
			break
		}
		high |= w
	}
	return n, high&eachHigh == 0
}
