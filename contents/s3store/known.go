package s3store

import (
	"container/list"
	"sync"
)

// latest remembers what was last seen of objects that are written often, so that
// a save needs not ask first. It is never an answer: a write that rests on it is
// conditional, and asks after all when the condition fails.
type latest struct {
	mu    sync.Mutex
	byKey map[string]*list.Element
	order list.List // of *latestObject, most recent first
}

type latestObject struct {
	key string
	object
}

const maxLatest = 10_000

func (l *latest) get(key string) (object, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.byKey[key]
	if e == nil {
		return object{}, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*latestObject).object, true
}

func (l *latest) set(key string, o object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.byKey[key]; e != nil {
		e.Value.(*latestObject).object = o
		l.order.MoveToFront(e)
		return
	}
	if l.byKey == nil {
		l.byKey = map[string]*list.Element{}
	}
	l.byKey[key] = l.order.PushFront(&latestObject{key, o})
	if l.order.Len() > maxLatest {
		oldest := l.order.Back()
		delete(l.byKey, oldest.Value.(*latestObject).key)
		l.order.Remove(oldest)
	}
}

func (l *latest) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.byKey[key]; e != nil {
		delete(l.byKey, key)
		l.order.Remove(e)
	}
}
