package s3store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"kernelgw/contents"
)

// Run finishes moves that were broken off, then removes old versions from time to
// time, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	if err := s.openAll(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("cannot look for what is to be finished; each workspace is looked at when it is used", "err", err)
	}
	if s.retention.Every < 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(s.retention.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot remove old versions; trying again later", "err", err)
		}
	}
}

func (s *Store) openAll(ctx context.Context) error {
	names, err := s.names(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := s.enter(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// names returns the names of the workspaces that are in the bucket.
func (s *Store) names(ctx context.Context) (names []string, err error) {
	prefix := s.prefix + "v1/"
	in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix, Delimiter: aws.String("/")}
	for {
		out, err := s.client.ListObjectsV2(ctx, in)
		if err != nil {
			return nil, translate(err)
		}
		for _, p := range out.CommonPrefixes {
			word := strings.TrimSuffix(strings.TrimPrefix(aws.ToString(p.Prefix), prefix), "/")
			if name, ok := unescapeWord(word); ok && name != "" && escapeWord(name) == word {
				names = append(names, name)
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return names, nil
		}
		in.ContinuationToken = out.NextContinuationToken
	}
}

// Sweep removes once what the retention does not keep, in all workspaces. Latest
// versions and those that a checkpoint holds stay.
func (s *Store) Sweep(ctx context.Context) error {
	names, err := s.names(ctx)
	if err != nil {
		return fmt.Errorf("cannot list workspaces: %w", err)
	}
	var errs []error
	for _, name := range names {
		if err := s.sweepWorkspace(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("cannot sweep workspace %s: %w", name, err))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := s.sweepOwn(ctx, s.prefix+documentsPart); err != nil {
		errs = append(errs, fmt.Errorf("cannot sweep documents: %w", err))
	}
	if err := s.sweepProbes(ctx); err != nil {
		errs = append(errs, fmt.Errorf("cannot sweep what probes left: %w", err))
	}
	return errors.Join(errs...)
}

// sweepProbes removes the objects of probes that were killed.
func (s *Store) sweepProbes(ctx context.Context) error {
	var ids []identifier
	for v, err := range s.versions(ctx, s.prefix+probePart) {
		if err != nil {
			return err
		}
		if time.Since(v.modified) > time.Hour {
			ids = append(ids, identifier{v.key, v.version})
		}
	}
	return s.removeAll(ctx, ids)
}

func (s *Store) sweepWorkspace(ctx context.Context, name string) error {
	w, err := s.enter(ctx, name)
	if err != nil {
		return err
	}
	if err := s.purgeBefore(ctx, w, time.Now().Add(-s.retention.Trash)); err != nil {
		return err
	}
	counter := w.usage.mark()
	w.carried.begin()
	defer w.carried.end()
	// Candidates first, pins after: a checkpoint that is made in between pins the
	// latest version, which is no candidate.
	candidates, total, err := s.candidates(ctx, w)
	if err != nil {
		return err
	}
	pins, err := s.pins(ctx, w)
	if err != nil {
		return err
	}
	var versions, markers []identifier
	freed := int64(0)
	for _, c := range candidates {
		switch {
		case c.deleted:
			markers = append(markers, identifier{c.key, c.version})
		case !pins[identifier{c.key, c.version}] && !w.carried.has(identifier{c.key, c.version}):
			if c.leads {
				if o, err := s.head(ctx, c.key, c.version); err != nil || o.previous.Path != "" {
					continue // history goes on elsewhere, and this version says where
				}
			}
			versions = append(versions, identifier{c.key, c.version})
			freed += contents.Charge(c.size)
		}
	}
	if err := s.removeAll(ctx, versions); err != nil {
		return err
	}
	if err := s.removeAll(ctx, markers); err != nil {
		return err
	}
	w.usage.recount(total-freed, counter)
	if len(versions) > 0 {
		s.log.Info("removed old versions", "workspace", name, "versions", len(versions), "bytes", freed)
	}
	return s.sweepOwn(ctx, s.base(name)+"m/")
}

// candidate is a version that the retention does not keep, or a deletion below
// which nothing is.
type candidate struct {
	seenVersion
	leads bool // it is the oldest of its run, and may lead on to another path
}

// candidates returns what may go, and the bytes of all versions.
func (s *Store) candidates(ctx context.Context, w *workspace) (found []candidate, total int64, err error) {
	var one []seenVersion // all of one object
	flush := func() {
		keep := s.retention
		if len(one) > 0 && strings.HasSuffix(one[0].key, markerEnd) {
			keep = Retention{} // nobody wants an old version of a directory
		}
		found = append(found, keep.outdated(one, time.Now())...)
		one = one[:0]
	}
	for v, err := range s.versions(ctx, s.base(w.name)+filesPart) {
		if err != nil {
			return nil, 0, err
		}
		if len(one) > 0 && one[0].key != v.key {
			flush()
		}
		one = append(one, v)
		if !v.deleted {
			total += contents.Charge(v.size)
		}
	}
	flush()
	return found, total, nil
}

// outdated returns which versions of an object, newest first, need not be kept.
func (r Retention) outdated(all []seenVersion, at time.Time) (found []candidate) {
	var kept time.Time // the version above that is kept
	for i, v := range all {
		last := i+1 == len(all) || all[i+1].deleted
		switch {
		case v.deleted:
			if i+1 == len(all) {
				found = append(found, candidate{seenVersion: v})
			}
		case i == 0:
			kept = v.modified
		case r.keeps(v.modified, kept, at):
			kept = v.modified
		default:
			found = append(found, candidate{seenVersion: v, leads: last})
		}
	}
	return found
}

// keeps reports whether a version is kept: above is the newer one that is, zero
// for none.
func (r Retention) keeps(written, above, at time.Time) bool {
	age := at.Sub(written)
	sameSlot := func(slot time.Duration) bool {
		return !above.IsZero() && written.Truncate(slot).Equal(above.Truncate(slot))
	}
	switch {
	case age < r.All:
		return true
	case age < r.Hourly:
		return !sameSlot(time.Hour)
	case age < r.Daily:
		return !sameSlot(24 * time.Hour)
	}
	return false
}

// sweepOwn removes the old versions of the store's own objects, which nobody
// reads.
func (s *Store) sweepOwn(ctx context.Context, prefix string) error {
	var versions, markers []identifier
	for v, err := range s.versions(ctx, prefix) {
		switch {
		case err != nil:
			return err
		case v.deleted:
			markers = append(markers, identifier{v.key, v.version})
		case !v.latest:
			versions = append(versions, identifier{v.key, v.version})
		}
	}
	// In this order: a deletion must not go before what it hides.
	if err := s.removeAll(ctx, versions); err != nil {
		return err
	}
	return s.removeAll(ctx, markers)
}
