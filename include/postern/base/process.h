// process: what every program asks of the system for itself, at its start. Main thread, before others run.
#ifndef POSTERN_BASE_PROCESS_H
#define POSTERN_BASE_PROCESS_H

// As many descriptors as the system lets us have: each visitor costs one.
void process_raise_descriptors(void);
// In the hardened build: no core files and no debugger of the same user, for both would show keys, tokens and traffic.
void process_forbid_core(void);

#endif
