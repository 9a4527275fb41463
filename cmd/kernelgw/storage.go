package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"kernelgw/contents/s3store"
)

// StorageCmd looks after the file storage.
type StorageCmd struct {
	Doctor StorageDoctorCmd `cmd:"" help:"Tell what the file storage can do, and whether it can be used."`
}

// StorageDoctorCmd probes the file storage.
type StorageDoctorCmd struct {
	JSON bool `help:"Print JSON."`
	Config
}

// storageDiagnosis is what the doctor prints.
type storageDiagnosis struct {
	Storage  string          `json:"storage"`
	Findings []storageDetail `json:"findings"`
	Usable   bool            `json:"usable"`
}

type storageDetail struct {
	finding
	Required bool `json:"required"`
}

// Run probes and prints. It fails when the storage cannot be used.
func (c *StorageDoctorCmd) Run(env *environment) (err error) {
	if err := c.complete(env); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(env.ctx, time.Minute)
	defer cancel()
	b, err := openBucket(ctx, &c.Config, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	report, err := s3store.Probe(ctx, b.client, b.name, b.prefix)
	if err != nil {
		return err
	}
	unusable := report.Unusable()
	d := storageDiagnosis{Storage: c.where(b), Usable: unusable == nil}
	for _, f := range report.Findings {
		d.Findings = append(d.Findings, storageDetail{finding{f.Name, f.OK, f.Detail}, f.Required})
	}
	if c.JSON {
		encoder := json.NewEncoder(env.stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(d); err != nil {
			return fmt.Errorf("cannot print the diagnosis: %w", err)
		}
	} else {
		d.print(env.stdout)
	}
	if unusable != nil {
		return fmt.Errorf("files cannot be kept there: %w", unusable)
	}
	return nil
}

func (c *StorageDoctorCmd) where(b bucket) string {
	switch {
	case c.Storage != "s3":
		return "the embedded S3 server"
	case c.S3Endpoint == "":
		return fmt.Sprintf("bucket %s of AWS in %s", b.name, c.S3Region)
	}
	return fmt.Sprintf("bucket %s of %s", b.name, c.S3Endpoint)
}

func (d storageDiagnosis) print(w io.Writer) {
	for _, f := range d.Findings {
		mark := "no "
		if f.OK {
			mark = "yes"
		} else if f.Required {
			mark = "NO "
		}
		fmt.Fprintf(w, "%s  %-20s %s\n", mark, f.Name, f.Detail)
	}
	if d.Usable {
		fmt.Fprintf(w, "\nfiles can be kept in %s\n", d.Storage)
		return
	}
	fmt.Fprintf(w, "\nserve would refuse to keep files in %s\n", d.Storage)
}
