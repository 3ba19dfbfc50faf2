/* A libcuda.so.1 for the tests of vllm/gthread/checkpoint.py, with the driver's names, states and error codes. What it knows lies in
 * $FAKE_CUDA: a file for each CUDA process, named by its pid, with its state; `calls`, one line for each; `version`; and, where a call is to
 * fail, `fail-CALL` or `fail-CALL-PID` with the error code (`hang` in its place: it never returns). A call that fails changes nothing, but
 * for the code 999, after which the process is lost. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RUNNING, LOCKED, CHECKPOINTED, FAILED };
enum { SUCCESS = 0, INVALID_VALUE = 1, ILLEGAL_STATE = 401, UNKNOWN = 999 };

static FILE *at(const char *name, const char *mode)
{
	char path[4096];

	snprintf(path, sizeof path, "%s/%s", getenv("FAKE_CUDA"), name);
	return fopen(path, mode);
}

static int number(const char *name, int fallback)
{
	FILE *file = at(name, "r");
	char text[16] = "";

	if (!file)
		return fallback;
	fgets(text, sizeof text, file);
	fclose(file);
	if (!strncmp(text, "hang", 4))
		for (;;)
			pause();
	return atoi(text);
}

static void put(const char *name, const char *mode, const char *format, int value)
{
	FILE *file = at(name, mode);

	fprintf(file, format, value);
	fclose(file);
}

static int step(const char *call, int pid, int from, int to)
{
	char name[64], line[64];
	int state, error;

	snprintf(name, sizeof name, "%d", pid);
	state = number(name, -1);
	if (state < 0)
		return INVALID_VALUE;
	snprintf(line, sizeof line, "%s %%d\n", call);
	put("calls", "a", line, pid);
	snprintf(line, sizeof line, "fail-%s", call);
	error = number(line, SUCCESS);
	snprintf(line, sizeof line, "fail-%s-%d", call, pid);
	error = number(line, error);
	if (error == UNKNOWN)
		put(name, "w", "%d", FAILED);
	if (error != SUCCESS)
		return error;
	if (state != from)
		return ILLEGAL_STATE;
	put(name, "w", "%d", to);
	return SUCCESS;
}

int cuInit(unsigned int flags) { return flags ? INVALID_VALUE : number("fail-Init", SUCCESS); }

int cuDriverGetVersion(int *version)
{
	*version = number("version", 13000);
	return SUCCESS;
}

int cuGetErrorName(int code, const char **name)
{
	switch (code) {
	case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
	case 2: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
	case 100: *name = "CUDA_ERROR_NO_DEVICE"; break;
	case ILLEGAL_STATE: *name = "CUDA_ERROR_ILLEGAL_STATE"; break;
	case 600: *name = "CUDA_ERROR_NOT_READY"; break;
	case 800: *name = "CUDA_ERROR_NOT_PERMITTED"; break;
	case 801: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
	default: *name = "CUDA_ERROR_UNKNOWN";
	}
	return SUCCESS;
}

#ifndef WITHOUT_CHECKPOINTS
struct lock_args {
	unsigned int timeout_ms, reserved0;
	unsigned long long reserved1[7];
};

int cuCheckpointProcessLock(int pid, struct lock_args *args)
{
	int at;

	if (args->timeout_ms == 0 || args->reserved0)
		return INVALID_VALUE;
	for (at = 0; at < 7; at++)
		if (args->reserved1[at])
			return INVALID_VALUE;
	return step("Lock", pid, RUNNING, LOCKED);
}

int cuCheckpointProcessCheckpoint(int pid, void *args) { return args ? INVALID_VALUE : step("Checkpoint", pid, LOCKED, CHECKPOINTED); }
int cuCheckpointProcessRestore(int pid, void *args) { return args ? INVALID_VALUE : step("Restore", pid, CHECKPOINTED, LOCKED); }
int cuCheckpointProcessUnlock(int pid, void *args) { return args ? INVALID_VALUE : step("Unlock", pid, LOCKED, RUNNING); }

int cuCheckpointProcessGetState(int pid, int *state)
{
	char name[64];
	int error = number("fail-GetState", SUCCESS);

	snprintf(name, sizeof name, "%d", pid);
	*state = number(name, -1);
	return *state < 0 ? INVALID_VALUE : error;
}
#endif
