# SPDX-License-Identifier: Apache-2.0
"""Every fault, by the part of the system that it is put into."""

from __future__ import annotations

import agent_faults
import cache_faults
import client_faults
import configuration_faults
import convert_faults
import cuda_faults
import cuda_region_faults
import delivery_faults
import detector_faults
import device_faults
import gateway_document_faults
import gateway_grpc_faults
import gateway_http_faults
import gateway_settings_faults
import gateway_supervision_faults
import gpu_process_faults
import kserve_link_faults
import link_faults
import load_faults
import loading_faults
import observing_faults
import packing_faults
import people_demo_faults
import perf_command_faults
import perf_faults
import placement_faults
import priority_faults
import registry_faults
import report_faults
import scheduler_faults
import shape_faults
import shared_region_faults
import tensorrt_faults
import torch_faults
import triton_command_faults
import turn_faults
from fault import Fault

FAULTS: tuple[Fault, ...] = (
    *scheduler_faults.FAULTS,
    *priority_faults.FAULTS,
    *link_faults.FAULTS,
    *packing_faults.FAULTS,
    *shape_faults.FAULTS,
    *shared_region_faults.FAULTS,
    *device_faults.FAULTS,
    *detector_faults.FAULTS,
    *torch_faults.FAULTS,
    *triton_command_faults.FAULTS,
    *registry_faults.FAULTS,
    *delivery_faults.FAULTS,
    *agent_faults.FAULTS,
    *cache_faults.FAULTS,
    *people_demo_faults.FAULTS,
    *perf_faults.FAULTS,
    *perf_command_faults.FAULTS,
    *load_faults.FAULTS,
    *kserve_link_faults.FAULTS,
    *gateway_grpc_faults.FAULTS,
    *gateway_document_faults.FAULTS,
    *report_faults.FAULTS,
    *placement_faults.FAULTS,
    *configuration_faults.FAULTS,
    *cuda_region_faults.FAULTS,
    *convert_faults.FAULTS,
    *turn_faults.FAULTS,
    *gateway_http_faults.FAULTS,
    *client_faults.FAULTS,
    *loading_faults.FAULTS,
    *observing_faults.FAULTS,
    *gateway_settings_faults.FAULTS,
    *gpu_process_faults.FAULTS,
    *gateway_supervision_faults.FAULTS,
    *cuda_faults.FAULTS,
    *tensorrt_faults.FAULTS,
)
