package s3store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"kernelgw/contents"
)

// Report is what a probe found out about a bucket.
type Report struct {
	Findings []Finding

	quirks quirks
}

// Finding is one thing that a probe looked at.
type Finding struct {
	Name     string
	OK       bool   // the server does it as S3 does
	Required bool   // the store cannot do without
	Detail   string // what was seen, or the remedy
}

// quirks are what servers do differently and the store gets along with.
type quirks struct {
	createsOverDeleted bool // If-None-Match: * holds for an object that was deleted
	order              versionOrder
}

// Unusable says why a store cannot keep files in the bucket, or nil.
func (r *Report) Unusable() error {
	var errs []error
	for _, f := range r.Findings {
		if f.Required && !f.OK {
			errs = append(errs, fmt.Errorf("%s: %s", f.Name, f.Detail))
		}
	}
	return errors.Join(errs...)
}

// Probe finds out what a bucket can do, with objects of its own below the prefix,
// which it removes. Its error is about a server that cannot be asked; what the
// server lacks is in the report.
func Probe(ctx context.Context, client *s3.Client, bucket, prefix string) (*Report, error) {
	p := &probe{
		s:    &Store{client: tuned(client), bucket: bucket, quirks: quirks{createsOverDeleted: true}},
		base: prefix + probePart + rand.Text() + "/",
		r:    &Report{},
	}
	if err := p.reach(ctx); err != nil {
		return nil, err
	}
	defer p.clean(ctx)
	for _, look := range []func(context.Context) error{
		p.versioning, p.compareAndSwap, p.createOnce, p.createOverDeleted, p.order, p.metadata,
		p.ghostPrefixes, p.fileAndDirectory, p.conditionalCopy, p.conditionalDelete, p.clock,
	} {
		if err := look(ctx); err != nil {
			return nil, fmt.Errorf("cannot probe the bucket %s: %w", bucket, err)
		}
	}
	return p.r, nil
}

// probePart is where probes have their objects; no workspace is called so.
const probePart = "v1/!probe/"

// emptyETag is the ETag of no content.
const emptyETag = "d41d8cd98f00b204e9800998ecf8427e"

type probe struct {
	s    *Store
	base string
	r    *Report
}

func (p *probe) found(name string, ok, required bool, yes, no string) {
	detail := yes
	if !ok {
		detail = no
	}
	p.r.Findings = append(p.r.Findings, Finding{Name: name, OK: ok, Required: required, Detail: detail})
}

// put writes a small object.
func (p *probe) put(ctx context.Context, name, body string, c condition) (etag, version string, err error) {
	u, err := measure(strings.NewReader(body))
	if err != nil {
		return "", "", err
	}
	return p.s.put(ctx, p.base+name, u, metadata{sha256: u.hex(), author: "probe", source: "api"}.encode(), c)
}

func (p *probe) reach(ctx context.Context) error {
	_, err := p.s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &p.s.bucket})
	switch status := statusOf(err); {
	case err == nil:
		return nil
	case status == 404:
		return fmt.Errorf("there is no bucket %s: make it, with versioning on", p.s.bucket)
	case status == 403:
		return fmt.Errorf("the server denies access to the bucket %s: check the keys, and what they may do", p.s.bucket)
	case status == 301 || status == 400:
		return fmt.Errorf("the server refuses requests for the bucket %s: check the region and the endpoint: %w", p.s.bucket, err)
	}
	return fmt.Errorf("cannot reach the bucket %s: %w", p.s.bucket, err)
}

func (p *probe) versioning(ctx context.Context) error {
	_, first, err := p.put(ctx, "versioned", "one", condition{})
	if err != nil {
		return err
	}
	_, second, err := p.put(ctx, "versioned", "two", condition{})
	if err != nil {
		return err
	}
	ok := first != "" && second != "" && first != second && first != "null"
	if ok {
		old, err := p.s.head(ctx, p.base+"versioned", first)
		if err != nil && !errors.Is(err, contents.ErrNotFound) {
			return err
		}
		ok = err == nil && old.version == first
	}
	p.found("versioning", ok, true, "each write makes a version",
		"it is off: turn versioning on for the bucket (PutBucketVersioning, Status=Enabled)")
	return nil
}

func (p *probe) compareAndSwap(ctx context.Context) error {
	etag, _, err := p.put(ctx, "swapped", "one", condition{})
	if err != nil {
		return err
	}
	_, _, wrong := p.put(ctx, "swapped", "two", condition{etag: emptyETag})
	if wrong != nil && !errors.Is(wrong, errPrecondition) {
		return wrong
	}
	// One of several at once must win. What they are told does not count: an
	// answer may be lost, and the request that is sent again then be refused.
	const writers = 8
	errs := make([]error, writers)
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() { _, _, errs[i] = p.put(ctx, "swapped", fmt.Sprint("three", i), condition{etag: etag}) })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, errPrecondition) {
			return err
		}
	}
	won := 0
	for v, err := range p.s.versions(ctx, p.base+"swapped") {
		if err != nil {
			return err
		}
		if v.size > int64(len("one")) {
			won++
		}
	}
	p.found("compare-and-swap", wrong != nil && won == 1, true, "of several writes with If-Match one wins",
		fmt.Sprintf("If-Match is not obeyed (%d of %d writes won, %t for a wrong ETag): saves could be lost; use a server that has conditional writes", won, writers, wrong == nil))
	return nil
}

// create writes an object that is not there yet; false when the server takes it
// for there.
func (p *probe) create(ctx context.Context, name, body string) (bool, error) {
	_, _, err := p.put(ctx, name, body, condition{none: true})
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, errPrecondition) {
		return false, err
	}
	now, err := p.s.head(ctx, p.base+name, "")
	if errors.Is(err, contents.ErrNotFound) {
		return false, nil
	}
	u, measured := measure(strings.NewReader(body))
	return now.sha256 == u.hex(), errors.Join(err, measured)
}

func (p *probe) createOnce(ctx context.Context) error {
	first, err := p.create(ctx, "created", "one")
	if err != nil {
		return err
	}
	second, err := p.create(ctx, "created", "two")
	if err != nil {
		return err
	}
	p.found("create once", first && !second, true, "If-None-Match: * keeps what is there",
		"If-None-Match: * is not obeyed: new files could replace others; use a server that has conditional writes")
	return nil
}

func (p *probe) createOverDeleted(ctx context.Context) error {
	if err := p.s.remove(ctx, p.base+"created"); err != nil {
		return err
	}
	created, err := p.create(ctx, "created", "three")
	if err != nil {
		return err
	}
	p.r.quirks.createsOverDeleted = created
	p.found("create after delete", created, false, "a deleted object can be created again with If-None-Match: *",
		"If-None-Match: * is not fulfilled by a deleted object; new files are written without it")
	return nil
}

func (p *probe) order(ctx context.Context) error {
	for i := range 2 {
		if _, _, err := p.put(ctx, "ordered", fmt.Sprint(i), condition{}); err != nil {
			return err
		}
		if err := p.s.remove(ctx, p.base+"ordered"); err != nil {
			return err
		}
	}
	for order := range byTime {
		p.s.quirks.order = order
		var deleted []bool
		for v, err := range p.s.versions(ctx, p.base+"ordered") {
			if err != nil {
				return err
			}
			deleted = append(deleted, v.deleted)
		}
		if slices.Equal(deleted, []bool{true, false, true, false}) {
			p.r.quirks.order = order
			p.found("history", true, false, []string{
				"versions and deletions are listed in one order, newest first",
				"versions and deletions are listed apart; their ids tell the order",
			}[order], "")
			return nil
		}
	}
	p.s.quirks.order, p.r.quirks.order = byTime, byTime
	p.found("history", false, false, "",
		"versions and deletions are listed apart, and only their times tell the order: a file that is deleted and made again within a second may show the history of both")
	return nil
}

func (p *probe) metadata(ctx context.Context) error {
	o, err := p.s.head(ctx, p.base+"versioned", "")
	if err != nil {
		return err
	}
	p.found("metadata", len(o.sha256) == 64 && o.author == "probe", true, "an object keeps what is said about it", "the server loses the metadata of objects")
	return nil
}

func (p *probe) ghostPrefixes(ctx context.Context) error {
	if _, _, err := p.put(ctx, "ghost!/file", "", condition{}); err != nil {
		return err
	}
	if err := p.s.remove(ctx, p.base+"ghost!/file"); err != nil {
		return err
	}
	out, err := p.s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &p.s.bucket, Prefix: aws.String(p.base + "gh"), Delimiter: aws.String("/")})
	if err != nil {
		return err
	}
	p.found("prefixes", len(out.CommonPrefixes) == 0, false, "a prefix without objects is not listed",
		"a prefix whose objects are all deleted is still listed; directories are told by markers")
	return nil
}

func (p *probe) fileAndDirectory(ctx context.Context) error {
	if _, _, err := p.put(ctx, "both", "", condition{}); err != nil {
		return err
	}
	_, _, err := p.put(ctx, "both/file", "", condition{})
	p.found("file and prefix", err == nil, false, "an object can be beside a prefix of its name",
		"an object cannot be beside a prefix of its name; keys are made so that this never happens")
	return nil
}

func (p *probe) conditionalCopy(ctx context.Context) error {
	_, err := p.s.client.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket: &p.s.bucket, Key: aws.String(p.base + "swapped"), CopySource: aws.String(p.s.bucket + "/" + p.base + "versioned"),
		IfNoneMatch: aws.String("*"), MetadataDirective: types.MetadataDirectiveReplace,
	})
	p.found("conditional copy", err != nil, false, "a copy obeys If-None-Match: *",
		"a copy ignores If-None-Match: *; copies and moves look first, under a lock of the gateway")
	return nil
}

func (p *probe) conditionalDelete(ctx context.Context) error {
	_, err := p.s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &p.s.bucket, Key: aws.String(p.base + "swapped"), IfMatch: aws.String(`"` + emptyETag + `"`)})
	p.found("conditional delete", err != nil, false, "a delete obeys If-Match",
		"a delete ignores If-Match; deletes look first, under a lock of the gateway")
	return nil
}

func (p *probe) clock(ctx context.Context) error {
	if _, _, err := p.put(ctx, "clock", "", condition{}); err != nil {
		return err
	}
	o, err := p.s.head(ctx, p.base+"clock", "")
	if err != nil {
		return err
	}
	skew := time.Since(o.modified).Round(time.Second)
	p.found("clock", skew.Abs() < time.Minute, false, fmt.Sprintf("within %s of this host's", max(skew.Abs(), time.Second)),
		fmt.Sprintf("differs by %s from this host's: set both", skew))
	return nil
}

// clean removes what the probe wrote, with all versions.
func (p *probe) clean(ctx context.Context) {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	var ids []identifier
	for v, err := range p.s.versions(ctx, p.base) {
		if err != nil {
			return // a few small objects stay
		}
		ids = append(ids, identifier{v.key, v.version})
	}
	// Markers last: while one is the newest, removing what is below changes
	// nothing that others see.
	slices.Reverse(ids)
	_ = p.s.removeAll(ctx, ids)
}
