package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"gatehouse/control/statefile"
	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/operator"
)

// Files are the operator's files or folders; "" is none.
type Files struct {
	Models, Statements, Categories string
	// LastGood is where the content of the last files that were good is kept, so
	// that a restart with a fault in them loses nothing; "" = nowhere.
	LastGood string
}

// Rules is what the operator's files say, checked whole.
type Rules struct {
	Library *models.Library
	Policy  *operator.Policy
	Sources Sources // what they were read from
}

// Sources is what the files hold, in the form that is kept as the last good.
type Sources struct {
	Models     []document.File `json:"models"`
	Statements []document.File `json:"statements"`
	Categories []document.File `json:"categories"`
}

// Check reads the files and checks them whole. The error joins all faults, each
// with file and line.
func (f Files) Check() (*Rules, error) {
	c, err := f.read()
	if err != nil {
		return nil, err
	}
	return c.Rules()
}

func (f Files) read() (Sources, error) {
	var faults document.Faults
	collect := func(setting, path string) []document.File {
		if path == "" {
			return nil
		}
		before := len(faults)
		files := document.Collect(path, &faults)
		for _, err := range faults[before:] {
			if fault := (*document.Fault)(nil); errors.As(err, &fault) && fault.File == path && fault.Line == 0 {
				fault.Text += " (the setting " + setting + " names it)"
			}
		}
		return files
	}
	c := Sources{collect("models", f.Models), collect("statements", f.Statements), collect("categories", f.Categories)}
	return c, faults.Err()
}

// Rules checks what the files hold whole. The error joins all faults, each with
// file and line.
func (c Sources) Rules() (*Rules, error) {
	library, err := models.Embedded()
	if err != nil {
		return nil, err
	}
	own, err := models.LoadFiles(c.Models)
	if err == nil && len(own) > 0 {
		library, err = models.WithOwn(own)
	}
	return c.over(library, err)
}

// Over is Rules with another library in place of the embedded one and of Models.
func (c Sources) Over(library *models.Library) (*Rules, error) { return c.over(library, nil) }

func (c Sources) over(library *models.Library, err error) (*Rules, error) {
	// Statements name models: they are checked also where the models are at fault,
	// so that all faults are told at once.
	p, errPolicy := operator.Decode(c.Statements, c.Categories, library)
	if err := errors.Join(err, errPolicy); err != nil {
		return nil, err
	}
	return &Rules{library, p, c}, nil
}

// settle is how long files must stay as they are before they are read: a file
// that is still being written never counts.
const settle = time.Second

// FileWatch follows the files. Safe for concurrent use.
type FileWatch struct {
	files Files
	log   *slog.Logger
	done  []string // the state of the files that was read last

	mu      sync.Mutex
	fault   string
	since   time.Time
	unkept  string  // why what is in force is not on disk as the last good
	pending Sources // it, while unkept says something
}

// OpenFiles reads the files for the first time. Where they have a fault, the last
// good ones stand in, and Fault tells; without any the error is the fault.
func OpenFiles(f Files, log *slog.Logger) (*FileWatch, *Rules, error) {
	w := &FileWatch{files: f, log: log, done: f.print()}
	c, err := f.read()
	var rules *Rules
	if err == nil {
		rules, err = c.Rules()
	}
	if err == nil {
		w.keep(c)
		return w, rules, nil
	}
	old, errOld := f.lastGood()
	if errOld != nil {
		return nil, nil, err
	}
	rules, errOld = old.Rules()
	if errOld != nil {
		return nil, nil, errors.Join(err, fmt.Errorf("the last good files: %w", errOld))
	}
	w.setFault(err)
	return w, rules, nil
}

func (f Files) lastGood() (Sources, error) {
	var c Sources
	data, err := os.ReadFile(f.LastGood)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(data, &c)
}

// keep has c stand in at a restart at which the files have a fault. A disk that is
// full, or read only, does not keep the gateway from its work: Unkept tells, and Run
// tries again.
func (w *FileWatch) keep(c Sources) {
	text := ""
	if err := w.write(c); err != nil {
		text = err.Error()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if text != "" && w.unkept == "" {
		w.log.Error("the operator's files are in force, and cannot be kept for a restart at which they have faults", "error", text)
	}
	w.unkept, w.pending = text, Sources{}
	if text != "" {
		w.pending = c
	}
}

func (w *FileWatch) write(c Sources) error {
	if w.files.LastGood == "" {
		return nil
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(w.files.LastGood); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return statefile.Write(w.files.LastGood, data)
}

// Unkept says why the files in force could not be kept for a restart; "" if they are.
func (w *FileWatch) Unkept() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unkept
}

// keepPending tries again what could not be kept.
func (w *FileWatch) keepPending() {
	w.mu.Lock()
	c, unkept := w.pending, w.unkept
	w.mu.Unlock()
	if unkept != "" {
		w.keep(c)
	}
}

// Fault says what is wrong with the files and since when; "" if nothing is. The
// last good ones are in force then.
func (w *FileWatch) Fault() (text string, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault, w.since
}

// setFault records what is wrong, and logs it once.
func (w *FileWatch) setFault(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == w.fault {
		return
	}
	w.fault, w.since = text, time.Now()
	if text == "" {
		w.log.Info("the operator's files are good again")
	} else {
		w.log.Error("the operator's files have faults; the last good policy stays", "faults", text)
	}
}

// Run calls apply with what the files say whenever they have changed, until ctx
// ends. Files are looked at each second, not by events of the kernel: those do not
// come from network file systems and bind mounts of single files.
func (w *FileWatch) Run(ctx context.Context, apply func(*Rules) error) {
	tick := time.NewTicker(settle)
	defer tick.Stop()
	last := w.done
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.keepPending()
		now := w.files.print()
		changed := !slices.Equal(now, last)
		last = now
		if changed || slices.Equal(now, w.done) {
			continue
		}
		c, err := w.files.read()
		if !slices.Equal(w.files.print(), now) {
			continue // changed while it was read
		}
		w.done = now
		w.setFault(w.load(c, err, apply))
	}
}

func (w *FileWatch) load(c Sources, err error, apply func(*Rules) error) error {
	if err != nil {
		return err
	}
	rules, err := c.Rules()
	if err != nil {
		return err
	}
	if err := apply(rules); err != nil {
		return err
	}
	w.keep(c)
	return nil
}

// print tells states of the files apart: name, size, time and inode of each.
func (f Files) print() []string {
	var out []string
	for _, root := range []string{f.Models, f.Statements, f.Categories} {
		if root == "" {
			continue
		}
		_ = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				out = append(out, name+" "+err.Error())
				return nil
			}
			if info, err := os.Stat(name); err == nil && !info.IsDir() {
				out = append(out, fmt.Sprintf("%s %d %d %d", name, info.Size(), info.ModTime().UnixNano(), inode(info)))
			}
			return nil
		})
	}
	return out
}
