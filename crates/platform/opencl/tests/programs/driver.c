/* An OpenCL driver that computes nothing, for tests of several drivers in one process: a command is over
 * when its enqueue returns. Its command buffers can be remapped to other queues, and count how often they
 * were enqueued; its device can be released by the name of OpenCL 1.1's extension. */
#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_1_APIS
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>
#include <CL/cl_ext.h>
#include <CL/cl_icd.h>
#include <stdlib.h>
#include <string.h>

/* Every handle: the loader finds a driver's functions by the first word. */
typedef struct object {
    cl_icd_dispatch *dispatch;
    cl_uint references;
} object;

static cl_icd_dispatch dispatch;
static object platform = {&dispatch, 1}, device = {&dispatch, 1};
static cl_uint enqueued;

static void *make(cl_int *error) {
    object *made = malloc(sizeof *made);
    *made = (object){&dispatch, 1};
    if (error)
        *error = CL_SUCCESS;
    return made;
}

static cl_int retain(void *handle) {
    ((object *)handle)->references++;
    return CL_SUCCESS;
}

/* Nothing is freed, so that a use afterwards shows as a count of 0. */
static cl_int release(void *handle) {
    ((object *)handle)->references--;
    return CL_SUCCESS;
}

static cl_int answer(const void *value, size_t bytes, size_t room, void *to, size_t *needed) {
    if (needed)
        *needed = bytes;
    if (to && room < bytes)
        return CL_INVALID_VALUE;
    if (to)
        memcpy(to, value, bytes);
    return CL_SUCCESS;
}

#define ANSWER(value) answer(&(value), sizeof(value), room, to, needed)
#define ANSWER_TEXT(text) answer(text, sizeof(text), room, to, needed)

static cl_int platform_ids(cl_uint count, cl_platform_id *platforms, cl_uint *found) {
    if (platforms && count)
        *platforms = (cl_platform_id)&platform;
    if (found)
        *found = 1;
    return CL_SUCCESS;
}

static cl_int platform_info(cl_platform_id of, cl_platform_info name, size_t room, void *to, size_t *needed) {
    (void)of;
    switch (name) {
    case CL_PLATFORM_NAME:
    case CL_PLATFORM_VENDOR:
        return ANSWER_TEXT("Nothing");
    case CL_PLATFORM_VERSION:
        return ANSWER_TEXT("OpenCL 1.1 nothing");
    case CL_PLATFORM_PROFILE:
        return ANSWER_TEXT("FULL_PROFILE");
    case CL_PLATFORM_EXTENSIONS:
        return ANSWER_TEXT("cl_khr_icd");
    case CL_PLATFORM_ICD_SUFFIX_KHR:
        return ANSWER_TEXT("NONE");
    }
    return CL_INVALID_VALUE;
}

static cl_int device_ids(cl_platform_id of, cl_device_type type, cl_uint count, cl_device_id *devices, cl_uint *found) {
    (void)of, (void)type;
    if (devices && count)
        *devices = (cl_device_id)&device;
    if (found)
        *found = 1;
    return CL_SUCCESS;
}

static cl_int device_info(cl_device_id of, cl_device_info name, size_t room, void *to, size_t *needed) {
    cl_device_type type = CL_DEVICE_TYPE_ACCELERATOR;
    void *owner = &platform;
    (void)of;
    switch (name) {
    case CL_DEVICE_TYPE:
        return ANSWER(type);
    case CL_DEVICE_PLATFORM:
        return ANSWER(owner);
    case CL_DEVICE_REFERENCE_COUNT_EXT:
        return ANSWER(device.references);
    case CL_DEVICE_NAME:
        return ANSWER_TEXT("nothing");
    case CL_DEVICE_VERSION:
        return ANSWER_TEXT("OpenCL 1.1 nothing");
    case CL_DEVICE_EXTENSIONS:
        return ANSWER_TEXT("");
    }
    return CL_INVALID_VALUE;
}

static cl_context create_context(const cl_context_properties *properties, cl_uint count, const cl_device_id *devices,
                                 void(CL_CALLBACK *notify)(const char *, const void *, size_t, void *), void *data,
                                 cl_int *error) {
    (void)properties, (void)count, (void)devices, (void)notify, (void)data;
    return make(error);
}

static cl_command_queue create_queue(cl_context context, cl_device_id of, cl_command_queue_properties properties,
                                     cl_int *error) {
    (void)context, (void)of, (void)properties;
    return make(error);
}

static cl_int queue_info(cl_command_queue queue, cl_command_queue_info name, size_t room, void *to, size_t *needed) {
    cl_command_queue_properties properties = 0;
    void *of = &device;
    switch (name) {
    case CL_QUEUE_DEVICE:
        return ANSWER(of);
    case CL_QUEUE_PROPERTIES:
        return ANSWER(properties);
    case CL_QUEUE_REFERENCE_COUNT:
        return ANSWER(((object *)queue)->references);
    }
    return CL_INVALID_VALUE;
}

static cl_int over(cl_command_queue queue) {
    (void)queue;
    return CL_SUCCESS;
}

static cl_int synchronize(cl_command_queue queue, cl_uint count, const cl_event *list, cl_event *event) {
    (void)queue, (void)count, (void)list;
    if (event)
        *event = make(NULL);
    return CL_SUCCESS;
}

static cl_int event_info(cl_event event, cl_event_info name, size_t room, void *to, size_t *needed) {
    cl_int status = CL_COMPLETE;
    (void)event;
    return name == CL_EVENT_COMMAND_EXECUTION_STATUS ? ANSWER(status) : CL_INVALID_VALUE;
}

static cl_int event_callback(cl_event event, cl_int status, void(CL_CALLBACK *notify)(cl_event, cl_int, void *), void *data) {
    (void)status;
    notify(event, CL_COMPLETE, data);
    return CL_SUCCESS;
}

/* ---- by name alone ---- */

static void *create_buffer(cl_uint count, const cl_command_queue *queues, const void *properties, cl_int *error) {
    (void)count, (void)queues, (void)properties;
    return make(error);
}

static void *remap_buffer(void *buffer, cl_bool automatic, cl_uint count, const cl_command_queue *queues,
                          cl_uint commands, const void *command_list, void *commands_made, cl_int *error) {
    (void)buffer, (void)automatic, (void)queues, (void)commands, (void)command_list, (void)commands_made;
    if (count == 0) {
        if (error)
            *error = CL_INVALID_VALUE;
        return NULL;
    }
    return make(error);
}

static cl_int enqueue_buffer(cl_uint count, cl_command_queue *queues, void *buffer, cl_uint after, const cl_event *list,
                             cl_event *event) {
    (void)buffer;
    __atomic_fetch_add(&enqueued, 1, __ATOMIC_SEQ_CST);
    return synchronize(count ? queues[0] : NULL, after, list, event);
}

static cl_uint count_enqueued(void) { return __atomic_load_n(&enqueued, __ATOMIC_SEQ_CST); }

static const struct {
    const char *name;
    void *function;
} functions[] = {
    {"clCreateCommandBufferKHR", create_buffer}, {"clRemapCommandBufferKHR", remap_buffer},
    {"clEnqueueCommandBufferKHR", enqueue_buffer}, {"clRetainCommandBufferKHR", retain},
    {"clReleaseCommandBufferKHR", release},      {"clIcdGetPlatformIDsKHR", platform_ids},
    {"countEnqueued", count_enqueued},
};

static void *function(cl_platform_id of, const char *name) {
    (void)of;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (strcmp(functions[i].name, name) == 0)
            return functions[i].function;
    return NULL;
}

/* What a loader looks for in a driver. */

CL_API_ENTRY void *CL_API_CALL clGetExtensionFunctionAddress(const char *name) { return function(NULL, name); }

CL_API_ENTRY cl_int CL_API_CALL clIcdGetPlatformIDsKHR(cl_uint count, cl_platform_id *platforms, cl_uint *found) {
    return platform_ids(count, platforms, found);
}

CL_API_ENTRY cl_int CL_API_CALL clGetPlatformInfo(cl_platform_id of, cl_platform_info name, size_t room, void *to,
                                                  size_t *needed) {
    return platform_info(of, name, room, to, needed);
}

static cl_icd_dispatch dispatch = {
    .clGetPlatformIDs = platform_ids,
    .clGetPlatformInfo = platform_info,
    .clGetDeviceIDs = device_ids,
    .clGetDeviceInfo = device_info,
    .clCreateContext = create_context,
    .clReleaseContext = (cl_api_clReleaseContext)release,
    .clCreateCommandQueue = create_queue,
    .clRetainCommandQueue = (cl_api_clRetainCommandQueue)retain,
    .clReleaseCommandQueue = (cl_api_clReleaseCommandQueue)release,
    .clGetCommandQueueInfo = queue_info,
    .clFlush = over,
    .clFinish = over,
    .clEnqueueBarrier = over,
    .clEnqueueMarkerWithWaitList = synchronize,
    .clEnqueueBarrierWithWaitList = synchronize,
    .clGetEventInfo = event_info,
    .clRetainEvent = (cl_api_clRetainEvent)retain,
    .clReleaseEvent = (cl_api_clReleaseEvent)release,
    .clSetEventCallback = event_callback,
    .clReleaseDeviceEXT = (cl_api_clReleaseDeviceEXT)release,
    .clGetExtensionFunctionAddressForPlatform = function,
};
