package egress

import (
	"strings"
	"testing"
	"time"
)

func FuzzReplacementsAreThoseOfTheStandardLibrary(f *testing.F) {
	f.Add("placeholder-a placeholder-b", "placeholder-a", "placeholder-b", "placeholder-b", "VALUE")
	f.Add("aaaaaa", "aa", "b", "aaa", "c")
	f.Add("abcabc", "bc", "", "ab", "x")
	f.Fuzz(func(t *testing.T, text, old1, new1, old2, new2 string) {
		if old1 == "" || old2 == "" {
			return
		}
		want := strings.NewReplacer(old1, new1, old2, new2).Replace(text)
		if got := (replacements{{old1, new1}, {old2, new2}}).in(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// A member of a workspace chooses the value, and code in a sandbox how often it is
// looked for.
func TestLongValuesThatRepeatThemselvesAreFoundAtOnce(t *testing.T) {
	long := strings.Repeat("x", 60<<10)
	list := replacements{{long, "placeholder"}}
	start := time.Now()
	for range 100 {
		if got := list.in("a" + long + "b"); got != "aplaceholderb" {
			t.Fatalf("%.100q", got)
		}
		if got := list.in(long[1:]); got != long[1:] {
			t.Fatalf("%.100q", got)
		}
	}
	if took := time.Since(start); took > 20*time.Second { // strings.Replacer: minutes
		t.Errorf("it took %v", took)
	}
	if replacements(nil).in("text") != "text" {
		t.Error("nothing to replace, and something was")
	}
}
