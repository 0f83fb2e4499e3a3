// Package check holds what suites share: what they assert with, and how they are set.
package check

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// T is a test whose conditions have Patience to come true.
type T struct {
	*testing.T
	Patience time.Duration
}

// Ok fails the test at an error.
func (t T) Ok(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Equal compares as text.
func (t T) Equal(what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// Has looks for want in text.
func (t T) Has(text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Fatalf("%q is missing in:\n%s", want, text)
	}
}

// Eventually asks until the answer holds; state says what the last answer was.
func (t T) Eventually(what string, holds func() (done bool, state any)) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(t.Patience)
	for {
		done, state := holds()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s; last seen: %v", what, state)
		}
	}
}

// Or is an environment variable, or else the fallback.
func Or(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}
