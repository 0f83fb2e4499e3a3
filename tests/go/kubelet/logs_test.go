package kubelet

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

var numbered = regexp.MustCompile(`line (\d+) of a log`)

// TestLogs reads a log while it grows and is rotated, and what rotation left.
func TestLogs(t *testing.T) {
	t.Parallel()
	n := open(t)
	n.until(t, "logs", ready())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	body, err := n.get(ctx, "/containerLogs/default/logs-node1/count?follow=true")
	check(t, err)
	defer body.Close()
	last, lost := 0, 0
	for lines := bufio.NewScanner(body); last < 10000 && lines.Scan(); {
		number := found(t, lines.Text())
		if last > 0 && number != last+1 {
			lost++
		}
		last = number
	}
	if last != 10000 || lost > 0 {
		t.Errorf("followed to line %d, %d gaps", last, lost)
	}
	tail, err := n.get(ctx, "/containerLogs/default/logs-node1/count?tailLines=2&timestamps=true")
	check(t, err)
	text, err := io.ReadAll(tail)
	tail.Close()
	check(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 2 || found(t, lines[1]) != 10000 {
		t.Errorf("the end of the log: %q", lines)
	}
	if _, err := time.Parse(time.RFC3339Nano, strings.Fields(lines[0])[0]); err != nil {
		t.Error(err)
	}
	n.rotated(t)
}

func found(t *testing.T, line string) int {
	t.Helper()
	match := numbered.FindStringSubmatch(line)
	if match == nil {
		t.Fatalf("not a line of the log: %q", line)
	}
	number, err := strconv.Atoi(match[1])
	check(t, err)
	return number
}

// rotated reads the files that are kept: the oldest were removed, the rest have each line once.
func (n *node) rotated(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(n.work, "logs", "default_logs-node1_*", "count", "0.log*"))
	check(t, err)
	sort.Strings(files) // by the time of their rotation, but for 0.log itself, which is the newest
	if len(files) > 0 {
		files = append(files[1:], files[0])
	}
	if len(files) < 3 {
		t.Fatalf("the log was not rotated: %v", files)
	}
	last := 0
	for _, name := range files {
		first := last
		check(t, each(name, func(line string) error {
			number := found(t, line)
			if last > 0 && number != last+1 {
				return fmt.Errorf("%s: line %d after %d", name, number, last)
			}
			last = number
			return nil
		}))
		t.Logf("%s: lines after %d to %d", filepath.Base(name), first, last)
	}
	if last != 10000 {
		t.Errorf("the files end with line %d", last)
	}
}

func each(name string, do func(string) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	var from io.Reader = file
	if strings.HasSuffix(name, ".gz") {
		if from, err = gzip.NewReader(file); err != nil {
			return err
		}
	}
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		if err := do(lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}
