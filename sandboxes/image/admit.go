package image

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kernelgw/sandboxes"
)

// judgeStored decides about an image of the store: it is admitted when it is
// under one of the origins that it came by.
func (s *Store) judgeStored(desc v1.Descriptor, known record, all bool) (Verdict, error) {
	origins := known.Origins
	if len(origins) == 0 { // stored by an earlier version
		origins = []string{desc.Annotations[refAnnotation]}
	}
	policy := s.policy.Load()
	if policy == nil {
		return Verdict{Origin: origins[0], Digest: desc.Digest.String(), Mode: VerifyOff}, nil
	}
	manifest, err := s.readBlob(desc.Digest)
	if err != nil {
		return Verdict{}, err
	}
	var first Verdict
	for i, origin := range origins {
		v := policy.judge(origin, manifest, all, func() ([]Signature, error) { return known.Signatures, nil })
		if v.Refused == nil {
			return v, nil
		}
		if i == 0 {
			first = v
		}
	}
	if first.Mode == VerifyRequire && len(known.Signatures) == 0 {
		first.Refused = fmt.Errorf("%w; if it has been signed since it was stored, pull it again", first.Refused)
	}
	return first, nil
}

// CheckSignatures says what signatures an image has and whether the policy
// admits it, and stores nothing. The image is the store's when that has it by
// the name opts.Ref, with the signatures that it was stored with; else it is
// looked for as by Pull.
func (s *Store) CheckSignatures(ctx context.Context, opts PullOptions) (Verdict, error) {
	desc, err := s.find(opts.Ref)
	if err == nil {
		known, err := s.readRecord(desc.Digest)
		if err != nil {
			return Verdict{}, err
		}
		return s.judgeStored(desc, known, true)
	}
	if !errors.Is(err, sandboxes.ErrNotFound) {
		return Verdict{}, err
	}
	var v Verdict
	err = s.withCandidate(ctx, opts, func(_, origin string, c *candidate) error {
		v = s.policy.Load().judge(origin, c.manifest, true, c.signatures)
		return nil
	})
	if refused := new(RefusedError); errors.As(err, &refused) {
		return Verdict{Origin: opts.Ref, Refused: refused.Why}, nil
	}
	if err != nil {
		return Verdict{}, fmt.Errorf("cannot check %q: %w", opts.Ref, err)
	}
	return v, nil
}
