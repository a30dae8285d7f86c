package redfishtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/roundsman-go/roundsman/transport"
)

// Save writes a file into a directory, under its own name, for programs that want
// their payloads on disk, and returns where it is.
func Save(f transport.File, dir string) (path string, err error) {
	r, err := f.Open(context.Background())
	if err != nil {
		return "", fmt.Errorf("redfishtest: saving %s: %w", f.Name, err)
	}
	defer r.Close()
	path = filepath.Join(dir, filepath.Base(f.Name))
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("redfishtest: saving %s: %w", f.Name, err)
	}
	_, err = io.Copy(w, r)
	if err = errors.Join(err, w.Close()); err != nil {
		return "", fmt.Errorf("redfishtest: saving %s: %w", f.Name, err)
	}
	return path, nil
}
