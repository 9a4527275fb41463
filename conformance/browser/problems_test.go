package browser

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
)

// problems collects what a browser complains of, in a form that is the same
// for every server.
type problems struct {
	mu       sync.Mutex
	all      map[string]int
	requests map[string]int // failed ones, by method, path and status
}

func newProblems() *problems {
	return &problems{all: make(map[string]int), requests: make(map[string]int)}
}

// listen returns a listener for the events of one tab.
func (p *problems) listen() func(any) {
	methods := make(map[network.RequestID]string) // one goroutine calls the listener
	return func(event any) {
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			methods[e.RequestID] = e.Request.Method + " " + pathOf(e.Request.URL)
		case *network.EventResponseReceived:
			if e.Response.Status >= 400 {
				p.note(p.requests, fmt.Sprintf("%s: %d", methods[e.RequestID], e.Response.Status))
			}
		case *network.EventLoadingFailed:
			if !e.Canceled && e.ErrorText != "net::ERR_ABORTED" {
				p.note(p.requests, fmt.Sprintf("%s: %s", methods[e.RequestID], e.ErrorText))
			}
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeAssert {
				var parts []string
				for _, arg := range e.Args {
					parts = append(parts, strings.Trim(string(arg.Value), `"`)+arg.Description)
				}
				p.note(p.all, "console: "+strings.Join(parts, " "))
			}
		case *runtime.EventExceptionThrown:
			text := e.ExceptionDetails.Text
			if e.ExceptionDetails.Exception != nil {
				text += " " + e.ExceptionDetails.Exception.Description
			}
			p.note(p.all, "exception: "+text)
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError {
				p.note(p.all, "log: "+e.Entry.Text+" "+pathOf(e.Entry.URL))
			}
		}
	}
}

func pathOf(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "data" || u.Scheme == "blob" {
		return ""
	}
	return u.Path
}

// What differs between two runs of the same thing.
var (
	origins = regexp.MustCompile(`(https?|wss?)://[^/\s"')]+`)
	uuids   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	hashes  = regexp.MustCompile(`[0-9a-f]{16,}`)
	queries = regexp.MustCompile(`\?[^\s"')]*`)
	places  = regexp.MustCompile(`:\d+:\d+\b`)
)

// plain takes out of a complaint what says nothing of its cause.
func plain(s string) string {
	s, _, _ = strings.Cut(s, "\n    at ") // the stack
	s = origins.ReplaceAllString(s, "")
	s = uuids.ReplaceAllString(s, "UUID")
	s = queries.ReplaceAllString(s, "")
	s = hashes.ReplaceAllString(s, "HASH")
	return strings.TrimSpace(places.ReplaceAllString(s, ""))
}

func (p *problems) note(in map[string]int, s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in[plain(s)]++
}

// beyond returns the complaints that another run did not give.
func (p *problems) beyond(other *problems) (complaints, failed []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	other.mu.Lock()
	defer other.mu.Unlock()
	minus := func(a, b map[string]int) []string {
		var list []string
		for _, s := range slices.Sorted(maps.Keys(a)) {
			if b[s] == 0 {
				list = append(list, fmt.Sprintf("%s (%d times)", s, a[s]))
			}
		}
		return list
	}
	return minus(p.all, other.all), minus(p.requests, other.requests)
}

// list returns all complaints, for the log.
func (p *problems) list() []string {
	complaints, failed := p.beyond(newProblems())
	return append(complaints, failed...)
}
