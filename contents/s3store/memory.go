package s3store

import (
	"container/list"
	"sync"
)

// memory holds the objects that were seen last. What it holds of latest versions,
// which change, is never an answer: a write that rests on it is conditional, and
// asks after all when the condition fails. Of a version that is named by its id
// it is an answer: that never changes.
type memory struct {
	mu    sync.Mutex
	byKey map[string]*list.Element
	order list.List // of *remembered, most recent first
}

type remembered struct {
	key string
	object
}

const maxRemembered = 10_000

func (m *memory) get(key string) (object, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byKey[key]
	if e == nil {
		return object{}, false
	}
	m.order.MoveToFront(e)
	return e.Value.(*remembered).object, true
}

func (m *memory) set(key string, o object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byKey[key]; e != nil {
		e.Value.(*remembered).object = o
		m.order.MoveToFront(e)
		return
	}
	if m.byKey == nil {
		m.byKey = map[string]*list.Element{}
	}
	m.byKey[key] = m.order.PushFront(&remembered{key, o})
	if m.order.Len() > maxRemembered {
		oldest := m.order.Back()
		delete(m.byKey, oldest.Value.(*remembered).key)
		m.order.Remove(oldest)
	}
}

func (m *memory) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byKey[key]; e != nil {
		delete(m.byKey, key)
		m.order.Remove(e)
	}
}
