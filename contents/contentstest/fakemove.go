package contentstest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"kernelgw/contents"
)

// Move implements contents.Store.
func (f *Fake) Move(ctx context.Context, workspace, from, to, author string, match contents.Match) (contents.Entry, error) {
	if err := f.fault(ctx, "Move"); err != nil {
		return contents.Entry{}, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	if w.files[from] == nil && !w.isDirectory(from) && match != (contents.Match{}) {
		return contents.Entry{}, &contents.ChangedError{}
	}
	if err := w.meets(from, match); err != nil {
		return contents.Entry{}, err
	}
	return f.transfer(w, from, to, author, "move")
}

// Copy implements contents.Store.
func (f *Fake) Copy(ctx context.Context, workspace, from, to, author string) (contents.Entry, error) {
	if err := f.fault(ctx, "Copy"); err != nil {
		return contents.Entry{}, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	return f.transfer(w, from, to, author, "copy")
}

func (f *Fake) transfer(w *workspace, from, to, author, how string) (contents.Entry, error) {
	fl := w.files[from]
	if fl == nil && (from == "" || !w.isDirectory(from)) {
		return contents.Entry{}, fmt.Errorf("%s: %w", from, contents.ErrNotFound)
	}
	if w.files[to] != nil || w.isDirectory(to) {
		return contents.Entry{}, fmt.Errorf("%s: %w", to, contents.ErrExists)
	}
	if isBelow(to, from) {
		return contents.Entry{}, fmt.Errorf("%s is in %s: %w", to, from, contents.ErrInvalid)
	}
	if err := f.room(w, to, false); err != nil {
		return contents.Entry{}, err
	}
	if fl != nil {
		return f.transferFile(w, from, to, author, how)
	}
	below := w.below(from)
	if how == "copy" {
		if err := f.hasRoom(w, w.charge(from, below)); err != nil {
			return contents.Entry{}, err
		}
	}
	w.directories[to] = w.directories[from]
	w.tell(contents.Change{Path: to, Entry: w.directory(to), Source: how})
	for _, p := range below {
		target := to + strings.TrimPrefix(p, from)
		if w.files[p] == nil {
			w.directories[target] = w.directories[p]
			w.tell(contents.Change{Path: target, Entry: w.directory(target), Source: how})
		} else if _, err := f.transferFile(w, p, target, author, how); err != nil {
			return contents.Entry{}, err
		}
	}
	if how == "move" {
		w.forgetDirectories(from, below, how)
	}
	return w.directory(to), nil
}

// charge returns what a copy of a directory, and of what is below it, counts.
func (w *workspace) charge(path string, below []string) (n int64) {
	for _, p := range append(below[:len(below):len(below)], path) {
		n += contents.Charge(w.listed(p).Size)
	}
	return n
}

func (f *Fake) transferFile(w *workspace, from, to, author, how string) (contents.Entry, error) {
	fl := w.files[from]
	v := fl.latest()
	o := contents.PutOptions{Author: author, Source: how, Executable: v.Executable}
	if how == "copy" {
		return f.append(w, to, v.content, o)
	}
	delete(w.files, from)
	w.files[to] = fl
	for i := range fl.versions {
		fl.versions[i].Path = to
	}
	w.tell(contents.Change{Path: to, Entry: v.Entry, Source: how})
	w.tell(contents.Change{Path: from, Deleted: true, Source: how})
	return v.Entry, nil
}

// forgetDirectories removes a directory and those of its below that are
// directories, the deepest first.
func (w *workspace) forgetDirectories(path string, below []string, source string) {
	list := append([]string{path}, below...)
	for _, p := range slices.Backward(list) {
		if _, ok := w.directories[p]; ok {
			delete(w.directories, p)
			w.tell(contents.Change{Path: p, Deleted: true, Source: source})
		}
	}
}
