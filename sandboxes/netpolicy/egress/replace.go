package egress

import "strings"

// replacement says what is put in the place of what; neither is empty.
type replacement struct {
	old, new string
}

// replacements are made in one pass: what was put in is not looked at again, and
// where several begin at the same place, the first one is made. That is what
// strings.Replacer does, which takes seconds to prepare for a long value that
// repeats itself, such as one of 60,000 times the same letter.
type replacements []replacement

// in returns a text with the replacements made.
func (list replacements) in(text string) string {
	var made strings.Builder
	next := make([]int, len(list)) // where each of them is found; behind the text when it is not
	done := 0
	for i := range list {
		next[i] = list.find(i, text, 0)
	}
	for {
		first := -1
		for i, at := range next {
			if at < done {
				at = list.find(i, text, done)
				next[i] = at
			}
			if at < len(text) && (first < 0 || at < next[first]) {
				first = i
			}
		}
		if first < 0 {
			made.WriteString(text[done:])
			return made.String()
		}
		made.WriteString(text[done:next[first]])
		made.WriteString(list[first].new)
		done = next[first] + len(list[first].old)
	}
}

// find returns where a replacement is to be made, at an index or behind it; the
// text's length when nowhere.
func (list replacements) find(i int, text string, from int) int {
	if at := strings.Index(text[from:], list[i].old); at >= 0 {
		return from + at
	}
	return len(text)
}
