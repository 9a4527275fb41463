package s3store

import "time"

// Retention says which old versions a sweep keeps. The latest version of a file
// and those that a checkpoint holds are always kept. Zero fields have the
// defaults.
type Retention struct {
	All    time.Duration // every version; 0 is 24 hours
	Hourly time.Duration // one for each hour; 0 is 7 days
	Daily  time.Duration // one for each day; 0 is 30 days
	Trash  time.Duration // deleted files; 0 is 30 days
	Every  time.Duration // between sweeps; 0 is 1 hour, negative is never
}

func (r Retention) withDefaults() Retention {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&r.All, 24*time.Hour)
	set(&r.Hourly, 7*24*time.Hour)
	set(&r.Daily, 30*24*time.Hour)
	set(&r.Trash, 30*24*time.Hour)
	set(&r.Every, time.Hour)
	return r
}
